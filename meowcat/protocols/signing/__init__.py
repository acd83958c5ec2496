"""Signatures of requests: pure functions of a request, a key and an instant."""
