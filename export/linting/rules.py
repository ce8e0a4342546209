"""A rule of ``posewarp lint``: a small function that says where a model breaks it, and what it means where.

A rule's severities say at which targets it counts: the first condition that the target meets decides, and a target
that meets none is not concerned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from posewarp.export.linting.facts import Facts
from posewarp.export.linting.targets import Target

Found = Iterator[tuple[str, str]]
Find = Callable[[Facts], Found]

SEVERITIES = ("error", "warning")
GPU = {"tensorrt": "error", "rtx": "error"}


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        id: stable; reports and settings refer to it.
        title: what it finds, in a few words.
        reason: why that is a fault.
        remedy: what to do.
        severities: ``error`` for what fails or moves pixels, ``warning`` for what may, by condition on the target.
        find: gives (where, what is the matter) for each place.
    """

    id: str
    title: str
    reason: str
    remedy: str
    severities: dict[str, str]
    find: Find

    def severity(self, target: Target) -> str | None:
        return next((level for condition, level in self.severities.items() if target.meets(condition)), None)


class Rules(list[Rule]):
    """Rules in order; called as a decorator, it takes a function in."""

    def __call__(
        self, id: str, title: str, *, reason: str, remedy: str, **severities: str
    ) -> Callable[[Find], Find]:
        def take(find: Find) -> Find:
            self.append(Rule(id, title, reason, remedy, severities, find))
            return find

        return take


def rules_table(rules: Iterable[Rule]) -> str:
    """Rules as a table in Markdown, for docs/lint.md."""
    lines = ["| id | finds | because | at | then |", "| --- | --- | --- | --- | --- |"]
    for rule in rules:
        at = ", ".join(f"{condition}: {level}" for condition, level in rule.severities.items())
        lines.append(f"| {rule.id} | {rule.title} | {rule.reason} | {at} | {rule.remedy} |")
    return "\n".join(lines)
