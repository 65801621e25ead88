"""Write `docs/tasks/*.md` from the definitions that validate and price requests; `--check` fails when they are stale."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pricing.book import PriceBook
from pricing.quotes import Quote
from pricing.registry import RULES, quote
from tasks.base import Task
from tasks.examples import EXAMPLES
from tasks.registry import TASKS

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "tasks"
NOTE = "<!-- Written by scripts/task_docs.py; change the definitions in tasks/ and pricing/, then run it again. -->\n"
KINDS = {"InlineImage": "image", "InlineAudio": "audio"}
WORKED = dict.fromkeys(("video.generate", "video.combine"), "examples/video.md")
"""Pages written by hand: real requests, and what came back."""


def pages(book: PriceBook) -> dict[str, str]:
    """Every page by its file name, priced after `book`."""
    written = {f"{task.name}.md": "\n".join(_page(task, book)) + "\n" for task in TASKS.values()}
    return {"README.md": "\n".join(_index(book)) + "\n", **written}


def _index(book: PriceBook) -> Iterator[str]:
    yield NOTE
    yield "# The nine tasks\n"
    yield f"Prices are those of the price book {book.version}. The price is known before the job is accepted, is held then,"
    yield "and is taken only when the job succeeds.\n"
    yield "| task | what it does | model | output | price |"
    yield "| --- | --- | --- | --- | --- |"
    for task in TASKS.values():
        rule = _summary(RULES[task.name])
        yield f"| [`{task.name}`]({task.name}.md) | {task.title} | {task.model} | {task.output} | {rule} |"
    yield ""
    yield "Every task takes `seed`. Unknown fields are refused, null counts as absent. What can be adjusted is adjusted,"
    yield "priced as adjusted and listed in `inputAdjustments`; `?strict=1` refuses it instead. An explicit field that"
    yield "overrides a preset is listed there too, and is never refused. A default is never an adjustment.\n"
    yield f"Real requests and what came back: {', '.join(f'[{page}]({page})' for page in dict.fromkeys(WORKED.values()))}."


def _page(task: Task[Any], book: PriceBook) -> Iterator[str]:
    schema = task.Input.model_json_schema()
    yield NOTE
    yield f"# `{task.name}`\n"
    yield f"{task.title}, with {task.model}. The deliverable is one {task.output} file.\n"
    yield "## Input\n"
    yield "| field | takes | default | |"
    yield "| --- | --- | --- | --- |"
    required = schema.get("required", ())
    for name, node in schema["properties"].items():
        default = "required" if name in required else _default(node)
        text = _escaped(node["description"])
        if node.get("deprecated"):
            text = f"Deprecated. {text}"
        yield f"| `{name}` | {_escaped(_takes(node, schema))} | {default} | {text} |"
    yield "\n## Price\n"
    yield f"{inspect.getdoc(RULES[task.name])}\n"
    yield f"| rate in the price book {book.version} | |"
    yield "| --- | --- |"
    for name, rate in book.as_json()[task.name].items():
        yield f"| `{name}` | {rate} |"
    yield "\n## Examples\n"
    if task.name in WORKED:
        yield f"What comes back, with frames and figures of real runs: [{WORKED[task.name]}]({WORKED[task.name]}).\n"
    for example in EXAMPLES[task.name]:
        yield from _example(task, example, book)


def _example(task: Task[Any], example: Mapping[str, Any], book: PriceBook) -> Iterator[str]:
    prepared = task.prepare(example)
    price = quote(task.name, prepared.effective_input, book)
    yield "```json"
    yield json.dumps({"task": task.name, "input": example}, indent=2, ensure_ascii=False)
    yield "```\n"
    yield f"{_sum(price)}\n"
    for change in prepared.adjustments:
        yield f"Adjusted: `{change.field}` from {change.from_} to {change.to} ({change.reason}).\n"


def _sum(price: Quote) -> str:
    billing = price.billing_json()
    lines = (f"{line['label']}: {line['quantity']} × ${line['unitPriceUsd']}" for line in billing["lineItems"])
    return f"**${billing['amountUsd']}** = {'; '.join(lines)}"


def _summary(rule: object) -> str:
    return (inspect.getdoc(rule) or "").partition("\n")[0]


def _default(node: Mapping[str, Any]) -> str:
    return f"`{json.dumps(node['default'])}`" if node.get("default") is not None else "–"


def _takes(node: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What a field holds, in words."""
    forms = [form for union in ("anyOf", "oneOf") for form in node.get(union, ()) if form.get("type") != "null"]
    if forms:
        return " or ".join(dict.fromkeys(_takes(form, schema) for form in forms))
    if "$ref" in node:
        return f"inline {KINDS[node['$ref'].rpartition('/')[2]]}"
    if "enum" in node:
        return " · ".join(f"`{choice}`" for choice in node["enum"] if choice is not None)
    if "const" in node:
        return f"`{node['const']}`"
    kind = node["type"] if isinstance(node["type"], str) else next(each for each in node["type"] if each != "null")
    match kind:
        case "array":
            return f"list of {_range(node, 'Items')}: {_takes(node['items'], schema)}"
        case "string" if "pattern" in node:
            return "URL"
        case "string":
            return f"text, {_range(node, 'Length')} characters"
        case "boolean":
            return "true or false"
        case _:
            return f"{'whole number' if kind == 'integer' else 'number'}, {_bounds(node)}"


def _range(node: Mapping[str, Any], of: str) -> str:
    return f"{node.get(f'min{of}', 0)}…{node[f'max{of}']}"


def _bounds(node: Mapping[str, Any]) -> str:
    gap = node.get("not", {})
    if gap:
        return f"{node['minimum']} or {gap['exclusiveMaximum']}…{node['maximum']}"
    if "exclusiveMinimum" in node:
        return f"above {_plain(node['exclusiveMinimum'])}, at most {_plain(node['maximum'])}"
    return f"{_plain(node['minimum'])}…{_plain(node['maximum'])}"


def _plain(value: float) -> str:
    return f"{value:.12g}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Write the pages, or with `--check` name the stale ones and exit with 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is not up to date")
    check = parser.parse_args().check
    wanted = pages(PriceBook.built_in())
    found = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.md")}
    stale = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if check and stale:
        sys.exit(f"docs/tasks is stale ({', '.join(stale)}): run python scripts/task_docs.py and commit what it writes")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in () if check else stale:
        path = FOLDER / name
        path.write_text(wanted[name], "utf-8") if name in wanted else path.unlink()
    sys.stdout.write(f"task docs: {len(wanted)} pages, {'all up to date' if not stale else f'{len(stale)} written'}\n")


if __name__ == "__main__":
    main()
