"""Source code as its definitions: each function, method and type a block under the names around it.

The text stays the file itself, byte for byte. Comments and decorators before a definition belong to it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any

from canonical import Block, Parsed
from plain_text import as_found, stripped
from text_bytes import decode

GRAMMARS = {
    ".py": ("tree_sitter_python", "language"),
    ".js": ("tree_sitter_javascript", "language"),
    ".jsx": ("tree_sitter_javascript", "language"),
    ".mjs": ("tree_sitter_javascript", "language"),
    ".ts": ("tree_sitter_typescript", "language_typescript"),
    ".tsx": ("tree_sitter_typescript", "language_tsx"),
    ".go": ("tree_sitter_go", "language"),
    ".rs": ("tree_sitter_rust", "language"),
    ".java": ("tree_sitter_java", "language"),
    ".c": ("tree_sitter_cpp", "language"),
    ".h": ("tree_sitter_cpp", "language"),
    ".cc": ("tree_sitter_cpp", "language"),
    ".cpp": ("tree_sitter_cpp", "language"),
    ".hpp": ("tree_sitter_cpp", "language"),
}
HOLDERS = frozenset(  # of definitions, each of which is a block of its own
    """
    class_definition class_declaration class_specifier struct_specifier interface_declaration enum_declaration
    namespace_definition internal_module impl_item trait_item mod_item record_declaration
    """.split()  # noqa: SIM905
)
BODIES = frozenset(
    ["block", "class_body", "interface_body", "enum_body", "declaration_list", "field_declaration_list"]
)
WRAPPERS = frozenset({"decorated_definition", "export_statement", "template_declaration"})
DEFINITIONS = frozenset(
    """
    function_definition function_declaration generator_function_declaration function_item method_definition
    method_declaration constructor_declaration type_declaration struct_item enum_item
    """.split()  # noqa: SIM905
)
LEADING = frozenset({"comment", "line_comment", "block_comment", "attribute_item"})
DEEPEST = 6  # holders inside of holders
SHORT_BYTES = 1000  # a holder so short is one block


def parse_code(data: bytes, suffix: str) -> Parsed:
    """Blocks by definition; what stands between definitions is a block too."""
    from tree_sitter import Language, Parser

    text, encoding = decode(data)
    module, name = GRAMMARS[suffix]
    grammar = Language(getattr(importlib.import_module(module), name)())
    source = text.encode()
    begin = len(b"\xef\xbb\xbf") if text.startswith("\ufeff") else 0
    root = Parser(grammar).parse(source).root_node
    starts = characters(source)
    blocks: list[Block] = []
    for first, last, heading in pieces(root, source, begin, len(source), (), DEEPEST):
        block = stripped(text, starts(first), starts(last), heading)
        if block and re.search(r"\w", text[block.start : block.end]):  # not a bracket alone
            blocks.append(block)
    return as_found(Parsed(text, blocks), encoding)


def pieces(
    node: Any, source: bytes, start: int, end: int, above: tuple[str, ...], deeper: int
) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """Ranges of bytes that tile ``[start:end]``, each under the names of what it stands in."""
    at, lead = start, None
    for child in node.named_children:
        if child.type in LEADING:
            lead = child.start_byte if lead is None else lead
            continue
        inner = definition(child)
        if inner is None:
            lead = None
            continue
        first = child.start_byte if lead is None else lead
        if first > at:
            yield at, first, above
        within = (*above, named(inner, source))
        body = next((part for part in inner.named_children if part.type in BODIES), None)
        short = child.end_byte - first <= SHORT_BYTES
        if inner.type in HOLDERS and body is not None and deeper and not short:
            yield from pieces(body, source, first, child.end_byte, within, deeper - 1)
        else:
            yield first, child.end_byte, within
        at, lead = child.end_byte, None
    if at < end:
        yield at, end, above


def definition(node: Any) -> Any:
    """The definition that a node is or wraps; None for anything else."""
    if node.type in WRAPPERS:
        return next((found for child in node.named_children if (found := definition(child))), None)
    return node if node.type in HOLDERS or node.type in DEFINITIONS else None


def named(node: Any, source: bytes) -> str:
    """What a definition is called. C and C++ hide it in declarators, Go in its specification."""
    for field in ("name", "declarator", "type"):
        inner = node.child_by_field_name(field)
        if inner is not None and (field != "declarator" or inner.child_by_field_name("declarator") is None):
            return source[inner.start_byte : inner.end_byte].decode(errors="replace")
        if inner is not None:
            return named(inner, source)
    spec = next((child for child in node.named_children if child.type.endswith("_spec")), None)
    return named(spec, source) if spec is not None else node.type


def characters(source: bytes) -> Any:
    """Character offsets of byte offsets that grow."""
    at, byte = 0, 0

    def of(place: int) -> int:
        nonlocal at, byte
        if place < byte:
            at, byte = 0, 0
        at += len(source[byte:place].decode())
        byte = place
        return at

    return of
