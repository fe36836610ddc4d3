"""Open the playground: a page on which the knobs of decoding move real probabilities (G12).

python -m scripts.playground --model base --port 8765
"""

import os
import secrets
import socket
import sys
import threading
import webbrowser

from scripts.support.command_line import Parser, run, whole

HOST = "127.0.0.1"  # this machine only


def main() -> None:
    parser = Parser(__doc__, prog="scripts.playground")
    parser.add_argument("--model", default="base", help="base, sft, smollm or a run directory (default: %(default)s)")
    parser.add_argument("--port", type=whole(), default=8765, help="of the page's address (default: %(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="print the address only")
    args = parser.parse_args()
    if args.port > 65535:
        raise ValueError(f"--port {args.port}: must be at most 65535")
    import uvicorn

    from scripts.playground.server import make_app
    from scripts.playground.session import Session, models_here

    session = Session(models_here(args.model), args.model)
    session.open(args.model)  # a model that is missing is an error here, not on the page
    app = make_app(session, secrets.token_urlsafe(), args.port)
    settings = uvicorn.Config(app, HOST, args.port, http="h11", ws="none", lifespan="off", log_level="warning",
                              timeout_graceful_shutdown=1)  # fmt: skip
    server = uvicorn.Server(settings)
    # Named as TCP, so that asyncio sends each answer at once: else a knob waits 40 ms for the reader's acknowledgement.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((HOST, args.port))

    address = f"http://{HOST}:{args.port}/"
    print(f"the playground is at {address}; Ctrl-C ends it", flush=True)
    if not args.no_browser and has_screen():
        threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
    server.run(sockets=[listening])


def has_screen() -> bool:
    """Is there a window for a browser? A browser in the terminal would take it over."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    run(main)
