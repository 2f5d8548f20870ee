"""What a check of ``sealkeeper doctor --gateway`` finds."""

from __future__ import annotations

from typing import TypeAlias

Finding: TypeAlias = tuple[str, bool, str, str]
"""Name of the check, whether it passed, what was found, what to do."""
