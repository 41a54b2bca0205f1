"""How many disposable pieces lie at the station: a small JSON file, replaced atomically.

Pieces are taken once per key (run and attempt), so a killed run that goes on does not take twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import Corrupt, Refused, UsageError
from registry.storage import disk_errors, write_whole


@dataclass(frozen=True)
class StockFile:
    path: Path

    def count(self, item: str) -> int | None:
        """Pieces left, or None when the station never counted that item."""
        entry = self._load().get(item)
        return None if entry is None else int(entry["count"])

    def set(self, item: str, count: int) -> None:
        """What a person counted."""
        if count < 0:
            raise UsageError(f"{count} {item} cannot lie at a station", hint="count from 0")
        table = self._load()
        table[item] = {"count": count, "last": table.get(item, {}).get("last", "")}
        self._store(table)

    def take(self, item: str, amount: int, key: str, initial: int | None) -> int:
        table = self._load()
        if item not in table:
            if initial is None:
                raise Refused(
                    f"nobody counted the {item} at this station",
                    evidence=str(self.path),
                    hint=f"count them: `policyctl station stock STATION.yaml {item} --set N`",
                )
            table[item] = {"count": initial, "last": ""}
        entry = table[item]
        if entry["last"] == key:
            return int(entry["count"])
        if entry["count"] < amount:
            raise Refused(
                f"{entry['count']} {item} left, a trial takes {amount}",
                evidence=str(self.path),
                hint=f"restock, `policyctl station stock STATION.yaml {item} --set N`, run again",
            )
        table[item] = {"count": entry["count"] - amount, "last": key}
        self._store(table)
        return int(table[item]["count"])

    def _load(self) -> dict[str, dict[str, Any]]:
        if not self.path.exists():
            return {}
        try:
            table = json.loads(self.path.read_text(encoding="utf-8"))
            return {
                str(k): {"count": int(v["count"]), "last": str(v["last"])} for k, v in table.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupt(
                "the station's stock file does not parse",
                evidence=f"{self.path}: {error}",
                hint="count the pieces again and delete the file",
            ) from error

    def _store(self, table: dict[str, dict[str, Any]]) -> None:
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, json.dumps(table, indent=2, sort_keys=True).encode())
