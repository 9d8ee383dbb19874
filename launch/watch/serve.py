"""A page on this host's loopback interface, for a browser on this host: two addresses, and no file behind any."""

from __future__ import annotations

import contextlib
import errno
import sys
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.report.document import allowing

LOOPBACK = "127.0.0.1"
POLL_MS = 2000  # between two questions of the page whether there is another one
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; font-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
SCRIPT = f"""
(function () {{
  var shown = document.currentScript.dataset.token;
  setInterval(function () {{
    if (document.hidden) return;
    fetch("/token").then(function (answer) {{ return answer.text(); }}).then(function (now) {{
      if (now && now !== shown) location.reload();
    }}).catch(function () {{}});
  }}, {POLL_MS});
}})();
"""


class Pages(Protocol):
    """What is served."""

    def token(self) -> str:
        """Changes with the page; letters and digits."""

    def page(self) -> tuple[str, str]:
        """The page that there is now, and its token."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True  # a connection that has just ended does not keep the port
    pages: Pages

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that breaks a connection off is no news, and the terminal shows the run."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers ``/`` and ``/token``. The page's own name must stand in Host: a foreign name that was led to this address
    (DNS rebinding) is refused."""

    server: Server
    server_version, sys_version = "tracestill", ""
    timeout = 30.0  # seconds that a connection may say nothing

    def do_GET(self) -> None:
        port = self.server.server_address[1]
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0].lower() not in (f"{LOOPBACK}:{port}", f"localhost:{port}"):
            return self.answer(
                HTTPStatus.MISDIRECTED_REQUEST, "text/plain", "this is not the host that was asked for\n"
            )
        if self.path == "/token":
            return self.answer(HTTPStatus.OK, "text/plain", self.server.pages.token())
        if self.path == "/":
            text, token = self.server.pages.page()
            return self.answer(HTTPStatus.OK, "text/html", reloading(text, token))
        return self.answer(HTTPStatus.NOT_FOUND, "text/plain", "only / is there\n")

    do_HEAD = do_GET

    def answer(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in (*HEADERS.items(), ("Content-Type", f"{kind}; charset=utf-8")):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):  # the browser has gone
                self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal shows the run."""


def reloading(page: str, token: str) -> str:
    """A page that loads itself again when its token is another one; a policy of its own lets it."""
    script = f'<script data-token="{token}">{SCRIPT}</script>'
    page = allowing(page, SCRIPT)
    before, end, after = page.rpartition("</body>")
    return f"{before}{script}{end}{after}" if end else page + script


@contextlib.contextmanager
def served(pages: Pages, port: int) -> Iterator[str]:
    """Meanwhile the address that is yielded shows the pages. ``port`` 0: a free one. Raises InputError if it is taken,
    or not for this user."""
    try:
        server = Server((LOOPBACK, port), Handler)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "is in use on this host" if taken else f"cannot be opened ({error.strerror})"
        raise InputError(f"--port {port}: {reason}; choose another, or leave it out for a free one") from error
    server.pages = pages
    thread = threading.Thread(target=server.serve_forever, args=[0.1], name="page", daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
