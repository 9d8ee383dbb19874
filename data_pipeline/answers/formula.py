"""Chemical formulae and equations as plain characters: ``CO₂``, ``CO_2`` and ``\\mathrm{CO_2}`` are ``CO2``."""

from __future__ import annotations

import re
import unicodedata

from tracestill.data_pipeline.answers.numbers.number import UPPER

ELEMENTS = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb
Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au
Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu
"""
ELEMENT = "|".join(sorted(ELEMENTS.split(), key=len, reverse=True))
PART = rf"(?:(?:{ELEMENT})\d*|[()\[\]]\d*)"
FORMULA = re.compile(rf"[\[(]*(?:{ELEMENT})\d*{PART}*(?P<charge>\^?\d*[+-])?")
ARROW = re.compile(r"\s*(?:<?[-=]+>|[→⟶⇌]|\\(?:long)?rightarrow\b|\\to\b)\s*")
SETTING = re.compile(r"\\(?:ce|mathrm|text|rm)(?![a-z])\s*|[{}_$\s]")
CHARGE = re.compile(r"\^\(?(\d*[+-])\)?")
MOST = 200  # characters
PROSE = re.compile("[a-z]{4}")  # no formula holds so many small letters but in commands of LaTeX


def formula_of(text: str) -> str:
    """A formula, or an equation of formulae, written plainly; "" for any other text. A charge stands behind ``^`` if it
    has a number, and if it was written so."""
    if len(text) > MOST or (PROSE.search(text) and "\\" not in text) or not any(sign.isupper() for sign in text):
        return ""
    plain = unicodedata.normalize("NFKC", UPPER.sub(lambda found: f"^({found[0]})", ARROW.sub("→", text)))
    plain = CHARGE.sub(r"^\1", SETTING.sub("", plain.replace("\u2212", "-")))
    plain = plain.replace("^+", "+").replace("^-", "-").removesuffix(".")
    if "→" in plain:
        terms = re.split(r"→|(?<=[A-Za-z\d)\]])\+(?=\d*[A-Z(\[])", plain)
        return plain if all(FORMULA.fullmatch(term.lstrip("0123456789")) for term in terms) else ""
    told = FORMULA.fullmatch(plain)
    return plain if told and (told["charge"] or any(sign.isdigit() for sign in plain)) else ""


def is_vague(one: str, other: str) -> bool:
    """Whether two formulae differ only in where a charge begins: "O2-" is O₂⁻ or O²⁻."""
    return one != other and one.replace("^", "") == other.replace("^", "")
