"""What is marked as personal, by the recipe's own environment."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.recipes.prepare_data.conftest import RECIPE

MARKED = {
    "pay with 4111 1111 1111 1111": "pay with [CREDIT_CARD_1]",
    "to DE89370400440532013000 please": "to [IBAN_1] please",
    "from 192.168.0.1 at night": "from [IP_ADDRESS_1] at night",
    "my key is sk-proj-abcdefghij0123456789ABCD": "my key is [SECRET_1]",
    "call 4155552671 or (415) 555-2671": "call [PHONE_1] or [PHONE_1]",
    "please cancel order 3707955617 at 10:30": "please cancel order 3707955617 at 10:30",
    "purchase 113542617735902": "purchase 113542617735902",
}


@pytest.mark.slow
def test_personal_data_is_marked_and_order_numbers_are_not(interpreter: Callable[[str], Path]) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import personal_data\n"
        "for text in sys.argv[2:]: print(personal_data.Masker()(text))"
    )
    command = [str(interpreter("prepare_data")), "-c", program, str(RECIPE), *MARKED]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == list(MARKED.values())
