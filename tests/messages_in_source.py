"""Every sentence in Dunwu's source as a template, and what the Chinese catalogue lacks or has too many of.

`python tests/messages_in_source.py` prints the missing ones room by room as YAML ready to be filled in (each with its
place and its placeholders' expressions as a comment), and the stale ones. `--fill FILE` takes the twins that are
missing out of such a file, `--prune` removes the stale.

A sentence is any string of at least two words: an f-string with `{}` for each placeholder (`{!r}` for a value in
quotes), a `%` format with `{}` for each value, pieces joined by `+`. A label is a single word, or a template with
values, that is given to `translated`. What no user reads is left out below, each kind with its reason.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

SOURCE = Path(__file__).parents[1] / "src" / "dunwu"
CATALOGUE = SOURCE / "_utils" / "chinese"

OTHERS_WORDS = (
    "trl/docs_page.py",  # prints a page of docs/, which is English
    "embedded/build.py",  # for who remakes the embedded model
    "_utils/commands.py",  # commands, to be copied as they are
    "_utils/quiet.py",  # what others' messages are known by
    "model/card.py",  # model cards are read on a hub, in English
    "recipes/card.py",  # the same
)
"""Files whose sentences are not shown to a user of Dunwu."""
NOT_SHOWN = {
    "tasks/countdown.py": (r"^Use the numbers ", r"^Let us solve this"),  # a prompt, read by the model
    "tasks/gsm8k.py": (r"^\nRespond in the following format",),  # the same
    "rewards/sandbox.py": (r"^import json, sys",),  # code
    "engines/fast/cpu_kernel_build.py": (r"^model name$", r"^CPU part$"),  # names in /proc/cpuinfo
    "training/checkpoint.py": (  # what the system's own errors are known by
        r"^No space left$|^file write failed$|^iostream error$|^Disk quota$|^File too large$",
    ),
    "hub/errors.py": (r"^gated dataset$", r"^Consistency check failed$"),  # the same, of the hub's client
    "trl/config.py": (r"^TRL \(",),  # a pattern
    "trl/model_config.py": (r"^tuple\[",),
    "model/loading.py": (r"^tuple\[",),  # a type
    "recipes/wiring.py": (r"^unexpected keyword argument $",),  # what Python's own error is known by
    "rewards/tutorials.py": (r".*",),  # caught by the reward that raises it
    "trl/arguments.py": (r"^transformers [\d.–]+$", r" \| None$"),  # versions and types
    "embedded/tokenizer.py": (r"^ yes", r"^\{% for"),  # a token, a template
    "cli/__init__.py": (
        r"^\n?dunwu( \{\})?: ",
        r"^dunwu \{\}$",
        r"^mean '--",
    ),  # the command, and an error with a twin of its own
    "cli/run.py": (r"^\n?dunwu run: \{\}$",),
    "compat/run_script.py": (r"^\(\\w\+\)", r"^dunwu run: \{\}$"),  # the same, and what Python's error is known by
    "observers/notebook.py": (r"^style=", r"^<progress", r"^<th"),  # HTML
    "observers/plots/style.py": (r".*",),  # names of fonts
    "observers/plots/labels.py": (r"^end label$",),  # matplotlib's own words
    "observers/plots/panels.py": (r"^axes fraction$|^offset points$",),  # the same
    "config/foreign_options.py": (r"^\s+adafactor ",),  # names of options
    "model/export.py": (r"^Model has `tie_word|^Input and output embeddings",),  # what others' warnings are known by
    "training/publishing.py": (r".*",),  # rows of the model card
    "recipes/experiment.py": (r"^Figures before and after training$",),  # a commit's message on a hub
    "training/processes.py": (r"-m torch.distributed.run$",),  # a command
    "__init__.py": (r"^IProgress not found$",),  # what a warning of others is known by
}
"""Patterns of a file's strings that look like sentences and are none that a user reads."""
LISTED_FIELDS = ("recipes/recipe.py", *(f"tasks/{name}.py" for name in ("countdown", "custom", "gsm8k", "tldr")))
"""Where the text under a dataclass's field is what `dunwu options` says of it."""
NOT_OURS = {"AttributeError", "AssertionError", "ImportError", "RuntimeError", "NotImplementedError"}
"""Errors about a programmer's mistake: they keep Python's language, like the traceback they come with."""

_WORDS = re.compile(
    r"[^\W\d_]+[,;:]? [^\W\d_(]{2}"  # two words
    r"|(?s:(?<![\w/.])[a-z]{3,}[,;:]? .*\{)"  # one and a placeholder
    r"|(?s:\}.*[ ;,(][a-z]{3,}(?![\w/.=(_-]))"
)
_PERCENT = re.compile(r"%[-+ 0]*[\d.]*[sdfgr](?!\w)")


@dataclass(frozen=True)
class Template:
    """A string of the source."""

    text: str
    """With `{}` and `{!r}`, as the catalogue has it."""
    shown: str
    """With the placeholders' expressions."""
    place: str
    """`room/module.py:line`."""
    label: bool
    """Whether it is asked for by name: a word or a template with values, given to `translated`."""


def templates(source: Path = SOURCE) -> list[Template]:
    """All of the source, in order."""
    found = []
    for path in sorted(source.rglob("*.py")):
        name = path.relative_to(source).as_posix()
        if name not in OTHERS_WORDS:
            found += list(_Module(path, name).templates())
    return found


class _Module:
    def __init__(self, path: Path, name: str) -> None:
        self.tree, self.name = ast.parse(path.read_text(encoding="utf-8")), name
        self.left_out = set(map(id, _not_messages(self.tree)))

    def templates(self) -> Iterator[Template]:
        yield from self._of(self.tree)
        if self.name.startswith(LISTED_FIELDS):
            for node in _field_texts(self.tree):
                text = " ".join(node.value.split())
                yield Template(text, text, f"{self.name}:{node.lineno}", False)

    def _of(self, node: ast.AST) -> Iterator[Template]:
        if id(node) in self.left_out:
            return
        label = _labelled(node)
        if label is not None:
            yield Template(label.value, label.value, f"{self.name}:{node.lineno}", True)
        made = _made(node)
        if made is not None and label is None:
            yield from self._kept(node, *made)
        for child in ast.iter_child_nodes(node):
            if label is not None and child is label:
                continue
            if made is not None and isinstance(child, ast.Constant):
                continue  # a piece of the template just made
            if made is not None and isinstance(node, ast.BinOp) and _made(child) is not None:
                yield from _inner(self, child)
            else:
                yield from self._of(child)

    def _kept(self, node: ast.AST, text: str, shown: str) -> Iterator[Template]:
        if not _WORDS.search(text.replace("{!r}", "{}")) or any(
            re.search(p, text) for p in NOT_SHOWN.get(self.name, ())
        ):
            return
        yield Template(text, shown, f"{self.name}:{node.lineno}", False)


def _inner(module: _Module, node: ast.AST) -> Iterator[Template]:
    """What is in the placeholders of a string that is itself a piece of a longer one."""
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.BinOp) and _made(child) is not None:
            yield from _inner(module, child)
        elif not isinstance(child, ast.Constant):
            yield from module._of(child)


def _labelled(node: ast.AST) -> ast.Constant | None:
    """The constant in `translated("…")` or `marked("…")`, where it is a single word or has values."""
    match node:
        case ast.Call(func=func, args=[ast.Constant(value=str(text)) as first, *_], keywords=values):
            if _name(func) in ("translated", "marked", "_") and (values or not _WORDS.search(text)):
                return first
    return None


def _made(node: ast.AST) -> tuple[str, str] | None:
    """The template that a string expression makes, and the same with its expressions; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = _PERCENT.sub("{}", node.value)
        return text, node.value
    if isinstance(node, ast.JoinedStr):
        return _joined(node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _made(node.left), _made(node.right)
        if left is None and right is None:
            return None
        left, right = (
            part or ("{}", "{" + ast.unparse(side) + "}") for part, side in ((left, node.left), (right, node.right))
        )
        return left[0] + right[0], left[1] + right[1]
    return None


def _joined(node: ast.JoinedStr) -> tuple[str, str]:
    text = shown = ""
    for part in node.values:
        if isinstance(part, ast.FormattedValue):
            text += "{!r}" if part.conversion == ord("r") else "{}"
            shown += "{" + ast.unparse(part.value) + "}"
        else:
            assert isinstance(part, ast.Constant)
            text += part.value
            shown += part.value
    return text, shown


def _field_texts(tree: ast.Module) -> Iterator[ast.Constant]:
    """The text under each public field of each public class."""
    for owner in ast.walk(tree):
        if not isinstance(owner, ast.ClassDef) or owner.name.startswith("_"):
            continue
        for field, text in itertools.pairwise(owner.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str())):
                    if not name.startswith("_"):
                        yield text.value


def _not_messages(tree: ast.Module) -> Iterator[ast.AST]:
    """Docstrings, messages of our own invariants, types, patterns, what is compared, errors of a programmer."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant()):
                yield node.value
            case ast.Assert(msg=message) if message is not None:
                yield message
            case ast.Compare():
                yield from (side for side in (node.left, *node.comparators) if isinstance(side, ast.Constant))
            case ast.Raise(exc=ast.Call(func=func)) if _name(func) in NOT_OURS:
                yield node
            case ast.Call(func=ast.Attribute(value=ast.Name(id="re"))) | ast.Call(func=ast.Name(id="cast")):
                yield from node.args
            case ast.AnnAssign() | ast.arg() if node.annotation is not None:
                yield node.annotation


def _name(func: ast.expr) -> str:
    return func.id if isinstance(func, ast.Name) else func.attr if isinstance(func, ast.Attribute) else ""


def room_of(template: Template) -> str:
    """The catalogue's file that a template belongs to."""
    return "labels" if template.label else template.place.partition("/")[0].partition(".")[0]


def catalogue() -> dict[str, dict[str, str]]:
    """Each file's name to its content; a text that stands twice is an error."""
    rooms = {}
    for path in sorted(CATALOGUE.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        rooms[path.stem] = yaml.safe_load(text) or {}
        keys = re.findall(r'(?m)^("(?:[^"\\]|\\.)*"):', text)
        assert len(keys) == len(rooms[path.stem]), f"{path.name} has a template twice, or one that is not in quotes"
    return rooms


def missing_and_stale() -> tuple[list[Template], dict[str, list[str]]]:
    """Templates of the source without a twin, and twins of none, file by file."""
    rooms = catalogue()
    all_sentences = {text for room, content in rooms.items() if room != "labels" for text in content}
    found = templates()
    wanted = {
        True: {template.text for template in found if template.label},
        False: {template.text for template in found if not template.label},
    }
    missing, seen = [], set()
    for template in found:
        have = rooms.get("labels", {}) if template.label else all_sentences | wanted[True]
        if template.text not in have and (template.text, template.label) not in seen:
            seen.add((template.text, template.label))
            missing.append(template)
    stale = {
        room: [text for text in content if text not in wanted[room == "labels"]] for room, content in rooms.items()
    }
    return missing, {room: texts for room, texts in stale.items() if texts}


def entry(text: str, twin: str) -> str:
    """One entry of the catalogue: the English on a line, the Chinese below it."""
    return f"{json.dumps(text, ensure_ascii=False)}:\n  {json.dumps(twin, ensure_ascii=False)}\n"


def prune(room: str, texts: list[str]) -> None:
    """Take entries out of a file, and leave its comments and the rest as they are."""
    path = CATALOGUE / f"{room}.yaml"
    content = path.read_text(encoding="utf-8")
    for text in texts:
        key = re.escape(json.dumps(text, ensure_ascii=False))
        content = re.sub(rf"(?m)^{key}:[^\S\n]*\n?[^\n]*\n", "", content)
    path.write_text(content, encoding="utf-8")


def fill(path: Path) -> None:
    """Take the twins that are missing out of a file of this program's own form."""
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    for template in missing_and_stale()[0]:
        twin = given.get(template.text)
        if twin:
            with (CATALOGUE / f"{room_of(template)}.yaml").open("a", encoding="utf-8") as file:
                file.write(entry(template.text, twin))


def main() -> None:
    if "--fill" in sys.argv:
        fill(Path(sys.argv[sys.argv.index("--fill") + 1]))
    missing, stale = missing_and_stale()
    for room in sorted({room_of(template) for template in missing}):
        print(f"# ---- {CATALOGUE.name}/{room}.yaml")
        for template in (template for template in missing if room_of(template) == room):
            print(
                f"# {template.place}  {template.shown!r}"
                if template.shown != template.text
                else f"# {template.place}"
            )
            print(entry(template.text, ""), end="")
    for room, texts in stale.items():
        print(f"# ---- stale in {room}.yaml" + (", removed" if "--prune" in sys.argv else ""))
        for text in texts:
            print(f"#   {text!r}")
        if "--prune" in sys.argv:
            prune(room, texts)
    print(f"# {len(missing)} missing, {sum(map(len, stale.values()))} stale")


if __name__ == "__main__":
    main()
