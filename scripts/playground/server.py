"""The page's web server: who may ask, what is refused, and how a generation is streamed and cancelled.

It answers this machine only: other hosts and origins, requests without the token of this start, long bodies and long
generations are refused in one sentence. One generation runs at a time; it ends when its reader goes away.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import anyio
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from scripts.playground import views
from scripts.playground.session import Session
from scripts.support.command_line import one_line

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
BODY = 65_536  # bytes of a request
SECONDS = 120  # of a generation, the wait for its turn included
AT_ONCE = {"start": views.start, "next": views.next_token, "draws": views.draws, "layout": views.layout}
ONE_BY_ONE = {"beam": views.beam, "run": views.run, "curves": views.curves}
PLAINLY = {"Not Found": "there is no such page", "Method Not Allowed": "views are asked by POST, pages by GET"}
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def make_app(session: Session, token: str, port: int) -> "Guard":
    """The application. token: what the page sends back with every request; port: part of the hosts it answers to."""
    files = {path.name: path for path in STATIC.iterdir() if path.suffix in TYPES}
    turn = anyio.Lock()  # of the one generation

    async def page(request: Request) -> Response:
        html = files["index.html"].read_text(encoding="utf-8").replace("{{token}}", token)
        return Response(html, media_type="text/html")

    async def static(request: Request) -> Response:
        path = files.get(request.path_params["name"])
        if path is None or path.name == "index.html":
            raise HTTPException(404, "there is no such file")
        return Response(path.read_bytes(), media_type=TYPES[path.suffix])

    async def view(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in AT_ONCE | ONE_BY_ONE:
            raise HTTPException(404, f"there is no view {name!r}; there are {', '.join(AT_ONCE | ONE_BY_ONE)}")
        if request.headers.get("x-playground-token") != token:
            raise HTTPException(403, "the server was started anew: reload the page")
        body = await read_body(request)
        if name in ONE_BY_ONE:
            return Generation(ONE_BY_ONE[name](session, body), turn)
        return JSONResponse(await run_in_threadpool(AT_ONCE[name], session, body))

    routes = [
        Route("/", page),
        Route("/static/{name}", static),
        Route("/api/{name}", view, methods=["POST"]),
    ]
    refusals = {HTTPException: refuse, ValueError: refuse, OSError: refuse, ClientDisconnect: refuse, Exception: refuse}
    return Guard(Starlette(routes=routes, exception_handlers=refusals), port)


class Guard:
    """Asks first who asks, so that no other page and no other machine reaches a route; then adds the headers."""

    def __init__(self, app, port: int):
        self.app = app
        self.hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
        self.origins = {f"http://{host}" for host in self.hosts}

    async def __call__(self, scope, receive, send) -> None:
        async def send_with_headers(message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        origins = [value for name, value in headers if name == b"origin"]
        app = self.app
        if len(hosts) != 1 or hosts[0] not in self.hosts or not self.origins.issuperset(origins):
            app = sentence(403, "this page is for the machine that it runs on: open it at http://127.0.0.1")
        await app(scope, receive, send_with_headers)


class Generation(Response):
    """A generation as a response, one line of JSON per token; the model is free again when the reader goes away."""

    def __init__(self, lines: Iterator[dict], turn: anyio.Lock):
        self.lines = lines
        self.turn = turn

    async def __call__(self, scope, receive, send) -> None:
        with anyio.move_on_after(SECONDS):
            async with self.turn:
                # what is wrong with the request shows before the first token
                try:
                    first = await run_in_threadpool(next, self.lines)
                except (ValueError, OSError) as problem:
                    response = sentence(400, one_line(problem))
                else:
                    response = StreamingResponse(self.encoded(first), media_type="application/x-ndjson")
                await response(scope, receive, send)
            return
        # SECONDS went by: a reader sees a response that breaks off

    async def encoded(self, first: dict):
        yield as_json(first) + "\n"
        try:
            async for line in iterate_in_threadpool(self.lines):
                yield as_json(line) + "\n"
        except (ValueError, OSError) as problem:
            yield as_json({"error": one_line(problem)}) + "\n"


async def read_body(request: Request) -> dict:
    """The JSON object that a request holds; it is not read beyond the limit."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "the content type must be application/json")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY:
            raise HTTPException(413, f"a request holds at most {BODY:,} bytes")
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the request is not JSON") from None
    if not isinstance(asked, dict):
        raise HTTPException(400, "the request must be a JSON object")
    return asked


async def refuse(request: Request, problem: Exception) -> Response:
    """One clear sentence for whatever went wrong."""
    if isinstance(problem, HTTPException):
        return sentence(problem.status_code, PLAINLY.get(problem.detail, problem.detail))
    if isinstance(problem, ValueError | OSError):
        return sentence(400, one_line(problem))
    return sentence(500, f"a mistake in the playground itself: {one_line(problem)}")


def sentence(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status)


def as_json(value: dict) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
