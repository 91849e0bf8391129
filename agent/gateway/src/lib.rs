//! Bytes to admitted calls, replies to bytes: WebSocket, HTTP, TLS, authentication, limits.
