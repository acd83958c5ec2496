/* Makes the n-th call that changes a file below one folder fail. Loaded with LD_PRELOAD; see failing_calls.py.
 *
 * Only calls through the C library are seen: those of CPython, of SQLite and of most libraries. A write that
 * is to fail for want of space stores half of its bytes first where it can, as real disks do.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static long countdown, seen;
static int code, lasting, happened;

void meowcat_arm(const char *below, long nth, int errnum, int forever) {
    snprintf(folder, sizeof folder, "%s", below);
    countdown = nth; code = errnum; lasting = forever; happened = 0; seen = 0;
}
int meowcat_disarm(void) { folder[0] = 0; return happened; }
long meowcat_seen(void) { return seen; }

static int below(const char *path) {
    size_t length = strlen(folder);
    return length && strncmp(path, folder, length) == 0 && path[length] == '/';
}

static int ours(int fd) {
    char link[64], path[PATH_MAX];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path) || strcmp(path, folder) == 0;
}

static int absolute(const char *path, char *full) {
    if (path[0] == '/') { snprintf(full, PATH_MAX, "%s", path); return 1; }
    if (!getcwd(full, PATH_MAX - 1)) return 0;
    size_t length = strlen(full);
    snprintf(full + length, PATH_MAX - length, "/%s", path);
    return 1;
}

static int ours_by_name(const char *path) {
    char full[PATH_MAX + 1];
    return folder[0] && absolute(path, full) && below(full);
}

static int fails(void) {
    seen++;
    if (lasting ? seen < countdown : seen != countdown) return 0;
    happened = 1;
    errno = code;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *bytes, size_t count) {
    static __typeof__(&write) real;
    if (!real) real = REAL(write);
    if (ours(fd) && fails()) {
        if (code == ENOSPC && count > 1) { ssize_t half = real(fd, bytes, count / 2); if (half > 0) return half; }
        errno = code;
        return -1;
    }
    return real(fd, bytes, count);
}

#define POSITIONED(name, type) \
    ssize_t name(int fd, const void *bytes, size_t count, type at) { \
        static __typeof__(&name) real; \
        if (!real) real = REAL(name); \
        if (ours(fd) && fails()) { \
            if (code == ENOSPC && count > 1) { ssize_t half = real(fd, bytes, count / 2, at); if (half > 0) return half; } \
            errno = code; \
            return -1; \
        } \
        return real(fd, bytes, count, at); \
    }
POSITIONED(pwrite, off_t)
POSITIONED(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    static __typeof__(&writev) real;
    if (!real) real = REAL(writev);
    return ours(fd) && fails() ? -1 : real(fd, parts, count);
}

#define ON_DESCRIPTOR(name, parameters, values) \
    int name parameters { \
        static __typeof__(&name) real; \
        if (!real) real = REAL(name); \
        return ours(fd) && fails() ? -1 : real values; \
    }
ON_DESCRIPTOR(fsync, (int fd), (fd))
ON_DESCRIPTOR(fdatasync, (int fd), (fd))
ON_DESCRIPTOR(ftruncate, (int fd, off_t size), (fd, size))
ON_DESCRIPTOR(ftruncate64, (int fd, off64_t size), (fd, size))

#define FAILING_WITH_ITS_RESULT(name, type) \
    int name(int fd, type at, type size) { \
        static __typeof__(&name) real; \
        if (!real) real = REAL(name); \
        return ours(fd) && fails() ? code : real(fd, at, size); \
    }
FAILING_WITH_ITS_RESULT(posix_fallocate, off_t)
FAILING_WITH_ITS_RESULT(posix_fallocate64, off64_t)

#define ON_NAME(name, parameters, values) \
    int name parameters { \
        static __typeof__(&name) real; \
        if (!real) real = REAL(name); \
        return ours_by_name(path) && fails() ? -1 : real values; \
    }
ON_NAME(rename, (const char *path, const char *to), (path, to))
ON_NAME(link, (const char *path, const char *to), (path, to))
ON_NAME(unlink, (const char *path), (path))
ON_NAME(mkdir, (const char *path, mode_t mode), (path, mode))
ON_NAME(truncate, (const char *path, off_t size), (path, size))

#define OPENING(name) \
    int name(const char *path, int flags, ...) { \
        static __typeof__(&name) real; \
        mode_t mode = 0; \
        if (!real) real = REAL(name); \
        if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } \
        return (flags & O_CREAT) && ours_by_name(path) && fails() ? -1 : real(path, flags, mode); \
    }
OPENING(open)
OPENING(open64)
