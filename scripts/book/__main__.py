"""Build the book: the lecture chapter by chapter, as a site that needs no network.

python -m scripts.book --out runs/book
"""

from pathlib import Path

from scripts.support.command_line import Parser, file_name, run
from scripts.support.run_directory import locked, refuse_foreign

OUT, DEMO = Path("runs/book"), Path("runs/demo")


def main() -> None:
    parser = Parser(__doc__, prog="scripts.book")
    parser.add_argument("--out", type=file_name, default=OUT, help="an earlier book there is replaced (%(default)s)")
    parser.add_argument("--demo", type=file_name, help=f"a demo, for its figures (default: {DEMO}, if it is there)")
    parser.add_argument("--keep-pictures", action="store_true", help="only put that demo's pictures into docs/book")
    args = parser.parse_args()
    demo = args.demo or DEMO
    lacking = [name for name in ("report.html", "results.json") if not (demo / name).is_file()]
    if lacking and (args.demo or args.keep_pictures):
        raise ValueError(f"{demo}: holds no demo ({lacking[0]} is missing); make demo runs one")
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"{args.out}: is a file; choose another OUT=…")
    there = [path.name for path in args.out.iterdir()] if args.out.exists() else []
    refuse_foreign(args.out, there, mark="book.css")

    from scripts.book import figures, site

    if args.keep_pictures:
        figures.keep(demo)
        return
    with locked(args.out.parent):  # the directory itself is replaced
        pages = site.build(args.out, None if lacking else demo)
    print(f"{len(pages)} pages, with the figures of {'the run in docs/lecture.md' if lacking else demo}")
    print(f"open {args.out / 'index.html'} in a browser")


if __name__ == "__main__":
    run(main)
