"""Letters that a text gives one value: ``x = 5``, and from there on ``2x + 3`` can be read."""

from __future__ import annotations

from tracestill.data_pipeline.soundness.tokens import Token

ENDS = ("break", "word", "close")


def with_values(tokens: list[Token]) -> list[Token]:
    """The tokens with numbers in the place of letters whose value is known: those that the text gives one, and no
    second one."""
    given: dict[str, list[tuple[int, Token]]] = {}
    for at in range(len(tokens) - 2):
        name, sign, number = tokens[at : at + 3]
        if not is_letter(name) or sign.text != "=" or number.type != "number":
            continue
        before, after = tokens[at - 1].type if at else "break", tokens[at + 3].type if at + 3 < len(tokens) else "break"
        if before in ("break", "word", "open") and after in ENDS:
            given.setdefault(name.text, []).append((at + 3, number))
    known = {name: found[0] for name, found in given.items() if len({number.text for _, number in found}) == 1}
    if not known:
        return tokens
    found: list[Token] = []
    for at, token in enumerate(tokens):
        since, number = known.get(token.text, (len(tokens), token)) if is_letter(token) else (len(tokens), token)
        if at < since or (at + 1 < len(tokens) and tokens[at + 1].text == "=" and found[-1].type in ("break", "word")):
            found.append(token)
            continue
        if found and found[-1].type in ("number", "close") and found[-1].end == token.start:
            found.append(Token("operator", "*", token.start, token.start))
        found.append(number._replace(start=token.start, end=token.end))
    return found


def is_letter(token: Token) -> bool:
    return token.type == "unknown" and len(token.text) == 1 and token.text.isalpha()
