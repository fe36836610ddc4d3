"""Chat templates run in jinja2's sandbox, and with limits: a template is a program that came with somebody's file.

jinja2 keeps it from Python's objects. The limits are ours: each pass of a loop, each call and each value that is made
costs its size from one budget, so no template runs for long or fills the memory.
"""

import json
from datetime import datetime
from functools import lru_cache, wraps

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

LONGEST = 1 << 16  # characters of a template
BUDGET = 20_000_000  # what one rendering may spend, and besides
PER_CHARACTER = 50  # so much for each character of the conversation
FILTERS = (
    "abs capitalize count d default dictsort first float int items join last length list lower map max min reject "
    "rejectattr replace reverse round safe select selectattr sort string title trim unique upper"
)
TEXT_METHODS = (
    "capitalize count endswith find index isdigit join lower lstrip removeprefix removesuffix replace rsplit rstrip "
    "split splitlines startswith strip title upper"
)


class TooMuch(TemplateError):
    """A template that asks for more than it may."""


class Sandbox(ImmutableSandboxedEnvironment):
    """What a template may use, and how much of it."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self):
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationTag])
        allowed = {name: self.filters[name] for name in FILTERS.split()} | {"tojson": to_json}
        self.filters = {name: self.paid(name, function) for name, function in allowed.items()}
        self.filters |= {"counted": self.counted, "measured": self.measured}
        self.globals = dict(range=safe_range, dict=dict, namespace=Namespace, raise_exception=refuse, strftime_now=now)
        self.left = 0  # of the budget
        self.price = 5  # of a pass or a call: grows with the template, whose text each may write once more

    def spend(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise TooMuch("it loops for too long, or makes too much text")

    def measured(self, value):
        """The value, once its size is paid for."""
        self.spend(self.size(value))
        return value

    def size(self, value) -> int:
        if isinstance(value, str):
            return 1 + len(value)
        if isinstance(value, list | tuple | dict):
            parts = [*value, *value.values()] if isinstance(value, dict) else value
            total = 1
            for part in parts:  # subtle: a list that holds the same list twice, again and again, is huge
                total += self.size(part)
                self.spend(20)
            return total
        return 1

    def counted(self, values):
        for value in values:
            self.spend(self.price)
            yield value

    def call(__self, __context, __obj, *args, **kwargs):  # subtle: a template may pass self=…
        __self.spend(20 * __self.price)
        if isinstance(getattr(__obj, "__self__", None), str):
            if __obj.__name__ not in TEXT_METHODS.split():
                raise TooMuch(f"the method {__obj.__name__!r} of texts is not supported")
            __self.spend_on_copies(__obj.__self__, *args)
        return __self.measured(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context, operator, left, right):
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "+":
            self.spend(self.size(left) + self.size(right))
        elif operator == "**" or not numbers or max(abs(left), abs(right)) > 1e6:
            raise TooMuch(f"the operator {operator} is only supported for small numbers")
        return super().call_binop(context, operator, left, right)

    def spend_on_copies(self, value, *arguments) -> None:
        """`replace` and `join` write one text as often as the other has characters, at most."""
        self.spend(self.size(value) * max([1, *map(self.size, arguments)]))

    def paid(self, name: str, function):
        """A filter whose result is paid for."""

        @wraps(function)  # keeps jinja2's mark, by which it knows what to pass first
        def filter(*args, **kwargs):
            if name in ("replace", "join"):
                context, value, *others = args
                value = value if isinstance(value, str) else list(value)
                self.spend_on_copies(value, *others)
                args = [context, value, *others]
            return self.measured(function(*args, **kwargs))

        return filter


class GenerationTag(Extension):
    """`{% generation %}`, with which `transformers` marks what is learnt: here only what is in it."""

    tags = frozenset(["generation"])

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


class Counted(NodeTransformer):
    """Puts a filter around what a template's loops run over, and around all that it makes and writes."""

    def visit_For(self, node):
        self.generic_visit(node)
        if node.recursive:
            raise TooMuch("recursive loops are not supported")
        node.iter = filtered(node.iter, "counted")
        return node

    def visit_Output(self, node):
        self.generic_visit(node)
        node.nodes = [p if isinstance(p, nodes.TemplateData) else filtered(p, "measured") for p in node.nodes]
        return node

    def visit_Made(self, node):
        self.generic_visit(node)
        return filtered(node, "measured")

    visit_Concat = visit_List = visit_Dict = visit_Made


def filtered(node, name: str):
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def refuse(message):
    raise TemplateError(str(message)[:300])


def now(format: str) -> str:
    return datetime.now().strftime(format[:40])


def to_json(value, indent=None, ensure_ascii=False, separators=None, sort_keys=False) -> str:
    indent = min(indent, 8) if isinstance(indent, int) else None
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=16)
def compiled(source: str):
    """A template's text, ready to be rendered by its sandbox. ValueError when it is too long or isn't a template."""
    if len(source) > LONGEST:
        raise ValueError(f"it has {len(source):,} characters, at most {LONGEST:,} are read")
    sandbox = Sandbox()
    sandbox.price += len(source) // 50
    try:
        return sandbox.from_string(Counted().visit(sandbox.parse(source)))
    except (TemplateError, RecursionError, SyntaxError, MemoryError, ValueError) as problem:
        raise ValueError(f"it can't be read ({problem!s:.200})") from problem


def render(source: str, messages: list[dict], **variables) -> str:
    """The text that a template makes of messages. ValueError that says why it makes none."""
    template = compiled(source)
    sandbox = template.environment
    sandbox.left = BUDGET + PER_CHARACTER * sum(len(message["content"]) for message in messages)
    try:
        return "".join(template.generate(messages=messages, **variables))
    except TemplateError as problem:
        raise ValueError(f"it says: {problem!s:.300}") from problem
    except Exception as problem:  # a template can fail in as many ways as a program
        raise ValueError(f"it fails ({type(problem).__name__}: {problem!s:.200})") from problem
