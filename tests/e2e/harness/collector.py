"""A collector of traces: takes what an OTLP exporter sends over HTTP, and keeps it."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import trustme
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent

#: An exporter gathers for a second, and a slow machine adds some.
WITHIN_S = 30.0


@dataclass(frozen=True)
class Span:
    """One span as it was sent; ids are in hexadecimal, times in nanoseconds."""

    trace: str
    id: str
    parent: str
    name: str
    kind: str
    state: str
    start: int
    end: int
    is_error: bool
    attributes: Mapping[str, Any]
    events: Mapping[str, int]
    resource: Mapping[str, Any]

    @property
    def outcome(self) -> str:
        """How its work ended."""
        return str(self.attributes["realm.outcome"])


class Trace:
    """The spans of one trace."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = spans

    @property
    def names(self) -> Sequence[str]:
        """What every span is called, in the order in which they began."""
        return [span.name for span in sorted(self.spans, key=lambda span: span.start)]

    def all(self, name: str) -> Sequence[Span]:
        """The spans of that name."""
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Span:
        """The only span of that name."""
        [span] = self.all(name)
        return span

    def path(self, span: Span) -> str:
        """The names from the outermost span to this one."""
        by_id = {each.id: each for each in self.spans}
        names = [span.name]
        while span.parent in by_id:
            span = by_id[span.parent]
            names.append(span.name)
        return "/".join(reversed(names))

    @property
    def paths(self) -> Sequence[str]:
        """The way to every span, sorted."""
        return sorted(self.path(span) for span in self.spans)


class Collector:
    """A server on loopback."""

    def __init__(self, authority: trustme.CA | None = None) -> None:
        """With an authority it speaks TLS, by a certificate of that."""
        self._scheme = "http" if authority is None else "https"
        self._grown = threading.Condition()
        self._spans: list[Span] = []
        #: All that came, as bytes.
        self.bodies: list[bytes] = []
        #: Of the newest request.
        self.headers: Mapping[str, str] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        if authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1").configure_cert(context)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        """Its base address."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            """Takes spans at one path."""

            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                is_ours = (
                    self.path == "/v1/traces"
                    and self.headers["Content-Type"] == "application/x-protobuf"
                )
                if is_ours:
                    collector.take(body, dict(self.headers.items()))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(HTTPStatus.OK if is_ours else HTTPStatus.NOT_FOUND)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                """Says nothing."""

        return Handler

    def take(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Takes one request in."""
        request = ExportTraceServiceRequest.FromString(body)
        spans = [
            _span(span, _attributes(resource.resource.attributes))
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        with self._grown:
            self._spans += spans
            self.bodies.append(body)
            self.headers = headers
            self._grown.notify_all()

    @property
    def spans(self) -> Sequence[Span]:
        """All that has come."""
        with self._grown:
            return list(self._spans)

    def trace(self, trace: str, *, spans: int = 1) -> Trace:
        """A trace, once the outermost span and at least so many have come."""

        def found() -> list[Span]:
            mine = [span for span in self._spans if span.trace == trace]
            ids = {span.id for span in mine}
            roots = [span for span in mine if span.parent not in ids]
            # What has no parent yet is outermost, or its parent is still on its way.
            return mine if len(roots) == 1 and len(mine) >= spans else []

        with self._grown:
            done = self._grown.wait_for(found, WITHIN_S)
            assert done, f"the trace {trace} is not whole: {self._spans}"
            return Trace(found())

    def called(self, call: str) -> Trace:
        """The trace of the call with this id, once it has come."""

        def found() -> list[str]:
            return [s.trace for s in self._spans if s.attributes.get("realm.call") == call]

        with self._grown:
            done = self._grown.wait_for(found, WITHIN_S)
            assert done, f"no trace of the call {call}: {self._spans}"
            [trace] = found()
        return self.trace(trace)

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _span(span: Sent, resource: Mapping[str, Any]) -> Span:
    return Span(
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        name=span.name,
        kind=Sent.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        state=span.trace_state,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        is_error=span.status.code == 2,
        attributes=_attributes(span.attributes),
        events={event.name: event.time_unix_nano for event in span.events},
        resource=resource,
    )


def _attributes(attributes: Sequence[KeyValue]) -> Mapping[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, str(kind))
