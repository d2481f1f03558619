"""The one exception that a person is meant to read."""

from __future__ import annotations


class InputError(ValueError):
    """Something that was asked for cannot be done; says what is wrong, what was expected and what to do.

    The command line prints it as one line and exits with 2; a page shows it in place of a result. Anything
    else that is raised is a defect of this program.
    """

    def __init__(self, wrong: str, *, expected: str = "", todo: str = "") -> None:
        self.wrong, self.expected, self.todo = wrong, expected, todo
        parts = [wrong.rstrip("."), f"Expected {expected.rstrip('.')}" if expected else "", todo.rstrip(".")]
        super().__init__(". ".join(part for part in parts if part) + ".")
