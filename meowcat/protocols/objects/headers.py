"""Which of the caller's headers go with which request of an upload."""

from collections.abc import Mapping

from msgspec import Struct

__all__ = ["Placement"]


class Placement(Struct, frozen=True):
    """Where a provider takes which header: it refuses what has no place. Names in lower case; what ends with
    `*` stands for all that begin so.
    """

    ours: tuple[str, ...]
    """Only meowcat sets them."""
    of_object: tuple[str, ...]
    """What the object has: said when its upload is created."""
    of_commit: tuple[str, ...]
    """Under which conditions it is made."""
    everywhere: tuple[str, ...] = ()
    """With each request, although `of_object` names them: a key that the server forgets after each."""

    def sent(
        self, headers: Mapping[str, str], *, creates: bool = False, commits: bool = False
    ) -> dict[str, str]:
        """Those that go with a request that `creates` an object's upload, that `commits` it, or neither."""
        given = {name.lower(): value for name, value in headers.items()}
        return {name: value for name, value in given.items() if self._fits(name, creates, commits)}

    def _fits(self, name: str, creates: bool, commits: bool) -> bool:
        if _is_of(name, self.ours):
            return False
        if _is_of(name, self.of_commit):
            return commits
        if _is_of(name, self.everywhere):
            return True
        return creates or not _is_of(name, self.of_object)


def _is_of(name: str, patterns: tuple[str, ...]) -> bool:
    return any(
        name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern for pattern in patterns
    )
