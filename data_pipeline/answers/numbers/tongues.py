"""Small numbers in words of Spanish, German, French, Italian and Portuguese, from 0 to 100.

Read only where the whole of a text is one of them, with a unit at most: ``doce``, ``zwölf Äpfel``. Some are words of
other meanings too, articles (``una``, ``ein``) or English words (``elf``, ``once``): these decide nothing.
``WORDS`` was written by num2words (a test compares them where that is installed); what people write beside it stands in
``ALSO`` and ``ONES``.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import cache

from tracestill.data_pipeline.answers.numbers.quantity import Quantity, settled, unframed
from tracestill.data_pipeline.answers.numbers.units import unit_of

LONGEST = 60  # characters
DIGIT = re.compile(r"\d")
WORDS = {  # of 0, 1, 2, …
    "es": """
        cero, uno, dos, tres, cuatro, cinco, seis, siete, ocho, nueve, diez, once, doce, trece, catorce, quince,
        dieciséis, diecisiete, dieciocho, diecinueve, veinte, veintiuno, veintidós, veintitrés, veinticuatro,
        veinticinco, veintiséis, veintisiete, veintiocho, veintinueve, treinta, treinta y uno, treinta y dos, treinta
        y tres, treinta y cuatro, treinta y cinco, treinta y seis, treinta y siete, treinta y ocho, treinta y nueve,
        cuarenta, cuarenta y uno, cuarenta y dos, cuarenta y tres, cuarenta y cuatro, cuarenta y cinco, cuarenta y
        seis, cuarenta y siete, cuarenta y ocho, cuarenta y nueve, cincuenta, cincuenta y uno, cincuenta y dos,
        cincuenta y tres, cincuenta y cuatro, cincuenta y cinco, cincuenta y seis, cincuenta y siete, cincuenta y
        ocho, cincuenta y nueve, sesenta, sesenta y uno, sesenta y dos, sesenta y tres, sesenta y cuatro, sesenta y
        cinco, sesenta y seis, sesenta y siete, sesenta y ocho, sesenta y nueve, setenta, setenta y uno, setenta y
        dos, setenta y tres, setenta y cuatro, setenta y cinco, setenta y seis, setenta y siete, setenta y ocho,
        setenta y nueve, ochenta, ochenta y uno, ochenta y dos, ochenta y tres, ochenta y cuatro, ochenta y cinco,
        ochenta y seis, ochenta y siete, ochenta y ocho, ochenta y nueve, noventa, noventa y uno, noventa y dos,
        noventa y tres, noventa y cuatro, noventa y cinco, noventa y seis, noventa y siete, noventa y ocho, noventa y
        nueve, cien
    """,
    "de": """
        null, eins, zwei, drei, vier, fünf, sechs, sieben, acht, neun, zehn, elf, zwölf, dreizehn, vierzehn, fünfzehn,
        sechzehn, siebzehn, achtzehn, neunzehn, zwanzig, einundzwanzig, zweiundzwanzig, dreiundzwanzig,
        vierundzwanzig, fünfundzwanzig, sechsundzwanzig, siebenundzwanzig, achtundzwanzig, neunundzwanzig, dreißig,
        einunddreißig, zweiunddreißig, dreiunddreißig, vierunddreißig, fünfunddreißig, sechsunddreißig,
        siebenunddreißig, achtunddreißig, neununddreißig, vierzig, einundvierzig, zweiundvierzig, dreiundvierzig,
        vierundvierzig, fünfundvierzig, sechsundvierzig, siebenundvierzig, achtundvierzig, neunundvierzig, fünfzig,
        einundfünfzig, zweiundfünfzig, dreiundfünfzig, vierundfünfzig, fünfundfünfzig, sechsundfünfzig,
        siebenundfünfzig, achtundfünfzig, neunundfünfzig, sechzig, einundsechzig, zweiundsechzig, dreiundsechzig,
        vierundsechzig, fünfundsechzig, sechsundsechzig, siebenundsechzig, achtundsechzig, neunundsechzig, siebzig,
        einundsiebzig, zweiundsiebzig, dreiundsiebzig, vierundsiebzig, fünfundsiebzig, sechsundsiebzig,
        siebenundsiebzig, achtundsiebzig, neunundsiebzig, achtzig, einundachtzig, zweiundachtzig, dreiundachtzig,
        vierundachtzig, fünfundachtzig, sechsundachtzig, siebenundachtzig, achtundachtzig, neunundachtzig, neunzig,
        einundneunzig, zweiundneunzig, dreiundneunzig, vierundneunzig, fünfundneunzig, sechsundneunzig,
        siebenundneunzig, achtundneunzig, neunundneunzig, einhundert
    """,
    "fr": """
        zéro, un, deux, trois, quatre, cinq, six, sept, huit, neuf, dix, onze, douze, treize, quatorze, quinze, seize,
        dix-sept, dix-huit, dix-neuf, vingt, vingt et un, vingt-deux, vingt-trois, vingt-quatre, vingt-cinq, vingt-
        six, vingt-sept, vingt-huit, vingt-neuf, trente, trente et un, trente-deux, trente-trois, trente-quatre,
        trente-cinq, trente-six, trente-sept, trente-huit, trente-neuf, quarante, quarante et un, quarante-deux,
        quarante-trois, quarante-quatre, quarante-cinq, quarante-six, quarante-sept, quarante-huit, quarante-neuf,
        cinquante, cinquante et un, cinquante-deux, cinquante-trois, cinquante-quatre, cinquante-cinq, cinquante-six,
        cinquante-sept, cinquante-huit, cinquante-neuf, soixante, soixante et un, soixante-deux, soixante-trois,
        soixante-quatre, soixante-cinq, soixante-six, soixante-sept, soixante-huit, soixante-neuf, soixante-dix,
        soixante et onze, soixante-douze, soixante-treize, soixante-quatorze, soixante-quinze, soixante-seize,
        soixante-dix-sept, soixante-dix-huit, soixante-dix-neuf, quatre-vingts, quatre-vingt-un, quatre-vingt-deux,
        quatre-vingt-trois, quatre-vingt-quatre, quatre-vingt-cinq, quatre-vingt-six, quatre-vingt-sept, quatre-vingt-
        huit, quatre-vingt-neuf, quatre-vingt-dix, quatre-vingt-onze, quatre-vingt-douze, quatre-vingt-treize, quatre-
        vingt-quatorze, quatre-vingt-quinze, quatre-vingt-seize, quatre-vingt-dix-sept, quatre-vingt-dix-huit, quatre-
        vingt-dix-neuf, cent
    """,
    "it": """
        zero, uno, due, tre, quattro, cinque, sei, sette, otto, nove, dieci, undici, dodici, tredici, quattordici,
        quindici, sedici, diciassette, diciotto, diciannove, venti, ventuno, ventidue, ventitré, ventiquattro,
        venticinque, ventisei, ventisette, ventotto, ventinove, trenta, trentuno, trentadue, trentatré, trentaquattro,
        trentacinque, trentasei, trentasette, trentotto, trentanove, quaranta, quarantuno, quarantadue, quarantatré,
        quarantaquattro, quarantacinque, quarantasei, quarantasette, quarantotto, quarantanove, cinquanta,
        cinquantuno, cinquantadue, cinquantatré, cinquantaquattro, cinquantacinque, cinquantasei, cinquantasette,
        cinquantotto, cinquantanove, sessanta, sessantuno, sessantadue, sessantatré, sessantaquattro, sessantacinque,
        sessantasei, sessantasette, sessantotto, sessantanove, settanta, settantuno, settantadue, settantatré,
        settantaquattro, settantacinque, settantasei, settantasette, settantotto, settantanove, ottanta, ottantuno,
        ottantadue, ottantatré, ottantaquattro, ottantacinque, ottantasei, ottantasette, ottantotto, ottantanove,
        novanta, novantuno, novantadue, novantatré, novantaquattro, novantacinque, novantasei, novantasette,
        novantotto, novantanove, cento
    """,
    "pt": """
        zero, um, dois, três, quatro, cinco, seis, sete, oito, nove, dez, onze, doze, treze, catorze, quinze,
        dezasseis, dezassete, dezoito, dezanove, vinte, vinte e um, vinte e dois, vinte e três, vinte e quatro, vinte
        e cinco, vinte e seis, vinte e sete, vinte e oito, vinte e nove, trinta, trinta e um, trinta e dois, trinta e
        três, trinta e quatro, trinta e cinco, trinta e seis, trinta e sete, trinta e oito, trinta e nove, quarenta,
        quarenta e um, quarenta e dois, quarenta e três, quarenta e quatro, quarenta e cinco, quarenta e seis,
        quarenta e sete, quarenta e oito, quarenta e nove, cinquenta, cinquenta e um, cinquenta e dois, cinquenta e
        três, cinquenta e quatro, cinquenta e cinco, cinquenta e seis, cinquenta e sete, cinquenta e oito, cinquenta e
        nove, sessenta, sessenta e um, sessenta e dois, sessenta e três, sessenta e quatro, sessenta e cinco, sessenta
        e seis, sessenta e sete, sessenta e oito, sessenta e nove, setenta, setenta e um, setenta e dois, setenta e
        três, setenta e quatro, setenta e cinco, setenta e seis, setenta e sete, setenta e oito, setenta e nove,
        oitenta, oitenta e um, oitenta e dois, oitenta e três, oitenta e quatro, oitenta e cinco, oitenta e seis,
        oitenta e sete, oitenta e oito, oitenta e nove, noventa, noventa e um, noventa e dois, noventa e três, noventa
        e quatro, noventa e cinco, noventa e seis, noventa e sete, noventa e oito, noventa e nove, cem
    """,
}
ALSO = {
    "zwo": 2, "hundert": 100, "ciento": 100, "deux cents": 200, "duas": 2, "quatorze": 14, "dezesseis": 16,
    "dezessete": 17, "dezenove": 19, "quatre vingt": 80, "septante": 70, "huitante": 80, "octante": 80, "nonante": 90,
    "cincoenta": 50,
}  # fmt: skip
ONES = {  # endings of 21, 31, … beside a noun, or of another gender
    "veintiuno": ("veintiun", "veintiuna"), " y uno": (" y un", " y una"), " et un": (" et une",),
    " e um": (" e uma",), " e dois": (" e duas",), "tuno": ("tun",), "ntuno": ("ntun",),
}  # fmt: skip
OTHERWISE = {  # words that mean something else as well, and the numbers that they may be
    **dict.fromkeys(("un", "uno", "una", "une", "um", "uma", "ein", "eine", "einen", "einer"), (1,)),
    **{"once": (11, 1), "elf": (11,), "cent": (100,), "null": (0,), "seize": (16,), "doze": (12,), "due": (2,)},
    **{"sei": (6,), "otto": (8,), "dos": (2,), "venti": (20,), "sept": (7,), "neuf": (9,)},
}
NO_UNIT = frozenset({  # behind a number they change it, or make no unit
    "mil", "mille", "mila", "cientos", "ciento", "cien", "hundert", "tausend", "cento", "cents", "cent", "millones",
    "millionen", "millions", "milioni", "milhoes", "dutzend", "docenas", "douzaines", "dozzine", "duzias",
    "tercios", "terzi", "tiers", "drittel", "tercos", "viertel", "cuartos", "quarts", "quarti", "quartos", "medios",
    "medio", "media", "halb", "demi", "demie", "mezzo", "mezza", "meia", "meio", "quintos", "funftel", "coma", "komma",
    "virgule", "virgola", "virgula", "uhr", "heures", "y", "und", "et", "e", "o", "u", "oder", "ou", "bis", "por",
    "mal", "fois", "mas", "mehr", "weniger", "menos", "plus", "moins", "piu", "mais", "meno",
})  # fmt: skip
UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})


@cache
def table() -> dict[str, int]:
    """Folded words -> number; made when it is first asked for."""
    found: dict[str, int] = {}
    for words in WORDS.values():
        for number, word in enumerate(words.split(",")):
            for form in (word, word.casefold().translate(UMLAUTS)):
                found[folded(form)] = number
    for word, number in list(found.items()):
        for ending, others in ONES.items():
            if word.endswith(ending) and number > 20:
                found.update((word.removesuffix(ending) + other, number) for other in others)
    return {word: number for word, number in {**found, **ALSO}.items() if word not in OTHERWISE}


def folded(text: str) -> str:
    """Without case, accents, hyphens, punctuation at the end."""
    if not text.isascii():
        text = "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))
    return " ".join(text.casefold().replace("-", " ").strip(" .!\n").split())


def number_word(text: str) -> Quantity | None:
    """The number that the whole of a text is in one of these languages, with a unit of one word at most; None for what
    may be another word."""
    if len(text) > LONGEST or DIGIT.search(text) or not any(map(str.isalpha, text)):
        return None
    plain = folded(settled(unframed(text)))
    if (value := table().get(plain)) is not None:
        return Quantity(Fraction(value))
    number, _, unit = plain.rpartition(" ")
    if (value := table().get(number)) is None or not unit.isalpha() or unit in NO_UNIT:
        return None
    if unit in table() or unit in OTHERWISE:
        return None
    return Quantity(Fraction(value), percent=True) if unit == "prozent" else Quantity(Fraction(value), unit_of(unit))


def may_be(text: str) -> tuple[int, ...]:
    """The numbers that a word of several meanings may be; empty for any other text."""
    if len(text) > LONGEST or " " in text.strip():
        return ()
    return OTHERWISE.get(folded(settled(unframed(text))), ())
