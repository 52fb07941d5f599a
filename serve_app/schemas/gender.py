"""The word for a gender in a prompt. Prompts are English; clients write in other languages too."""

from unicodedata import normalize

# In English, Chinese, Hindi, Spanish, French, Arabic, Bengali, Portuguese, Russian and Urdu, case folded.
WORDS = {
    "man": (
        *("m", "male", "man", "boy"),
        *("男", "男性", "男人", "男孩", "男生", "先生"),
        *("पुरुष", "आदमी", "मर्द", "लड़का"),
        *("hombre", "varón", "varon", "masculino", "chico", "niño"),
        *("homme", "masculin", "garçon", "garcon"),
        *("رجل", "ذكر", "ولد", "صبي"),
        *("পুরুষ", "ছেলে", "লোক"),
        *("homem", "rapaz", "menino"),
        *("мужчина", "мужской", "муж", "мальчик", "парень", "м"),
        *("مرد", "لڑکا", "آدمی"),
    ),
    "woman": (
        *("f", "female", "woman", "girl"),
        *("女", "女性", "女人", "女孩", "女生", "女士"),
        *("महिला", "औरत", "स्त्री", "लड़की"),
        *("mujer", "femenino", "femenina", "chica", "niña"),
        *("femme", "féminin", "feminin", "féminine", "fille"),
        *("امرأة", "أنثى", "انثى", "بنت", "فتاة"),
        *("মহিলা", "নারী", "মেয়ে"),
        *("mulher", "feminino", "feminina", "moça", "menina"),
        *("женщина", "женский", "жен", "девочка", "девушка", "ж"),
        *("عورت", "لڑکی", "خاتون"),
    ),
}


def gender_word(gender: str | None) -> str:
    """The word that replaces {gender_word} in a prompt; a word that is not known is used as it is."""
    return "person" if gender is None else _BY_WORD.get(_folded(gender), gender.strip())


def _folded(word: str) -> str:
    """Without spaces around it and differences of case; letters with dots can be written in two ways."""
    return normalize("NFC", word.strip()).casefold()


_BY_WORD = {_folded(word): english for english, words in WORDS.items() for word in words}
