"""JSON schemas of the types of values, by the library that reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flux.serde.typed import bare, leaves

_REFERENCE = "#/components/schemas/"


def json_schemas(kinds: Iterable[Any]) -> tuple[Mapping[Any, Any], Mapping[str, Any]]:
    """(each type's schema, the schemas that these refer to as `#/components/schemas/NAME`). A type that no installed
    library describes, such as an attrs class, has a schema that admits anything."""
    all_kinds = list(dict.fromkeys(kinds))
    schemas: dict[Any, Any] = {kind: {"type": "string"} for kind in all_kinds if bare(kind) is str}
    structs = [kind for kind in all_kinds if any(hasattr(each, "__struct_fields__") for each in leaves(kind))]
    definitions: dict[str, Any] = {}
    if structs:
        import msgspec

        made, definitions = msgspec.json.schema_components(structs, ref_template=_REFERENCE + "{name}")
        schemas |= zip(structs, made, strict=True)
    described, more = _by_pydantic([kind for kind in all_kinds if kind not in schemas])
    return {kind: {} for kind in all_kinds} | schemas | described, definitions | more


def _by_pydantic(kinds: Sequence[Any]) -> tuple[dict[Any, Any], dict[str, Any]]:
    try:
        from pydantic import TypeAdapter
    except ImportError:
        return {}, {}
    known: dict[Any, TypeAdapter[Any]] = {}
    for kind in kinds:
        try:
            adapter = TypeAdapter(kind)
            adapter.json_schema()
        except Exception:  # a type of another library, or one that JSON schema cannot describe
            continue
        known[kind] = adapter
    made, found = TypeAdapter.json_schemas(
        [(number, "validation", adapter) for number, adapter in enumerate(known.values())],
        ref_template=_REFERENCE + "{model}",
    )
    return {kind: made[number, "validation"] for number, kind in enumerate(known)}, dict(found.get("$defs", {}))
