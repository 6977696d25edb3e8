"""Who says what: words by which speakers are recognised."""

from __future__ import annotations

ROLES = {
    "user": "user human customer client visitor caller guest question prompter instruction me you",
    "assistant": "assistant gpt agent bot ai model chatbot support operator representative rep answer helper"
    " advisor response",
    "system": "system developer",
}
ROLE_OF = {word: role for role, words in ROLES.items() for word in words.split()}
