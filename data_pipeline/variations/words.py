"""The words that variations put in: names of people, things that can stand for each other, what does not matter.

A name here is no common word, month, place or surname, so that nothing else is renamed with it.
"""

from __future__ import annotations

import re

HERS = (
    "Abigail Alice Amanda Amelia Amy Andrea Angela Ann Anna Anne Ashley Ava Barbara Beatrice Becky Betty Bianca "
    "Brenda Brianna Brittany Carla Carly Carmen Carol Caroline Carrie Cecilia Chloe Christina Cindy Claire Clara "
    "Colleen Cynthia Debby Deborah Debra Diana Dora Dorothy Elaine Elise Eliza Elizabeth Ella Ellen Emily Emma Erica "
    "Erin Esther Eva Evelyn Faye Fiona Frances Freda Gina Gloria Greta Gretchen Gwen Haley Hallie Hannah Harriet "
    "Heather Helen Irene Isabel Isabella Jackie Jana Jane Janet Janice Jen Jenna Jennifer Jenny Jessica Jill Joan "
    "Josephine Joyce Judith Judy Julia Julie Karen Kate Katherine Katie Kayla Kelly Kim Kylie Lana Laura Lauren Leah "
    "Leila Lena Linda Lisa Lori Lorraine Lucy Lydia Maddy Madeline Maggie Marcia Marcy Margaret Margot Maria Marie "
    "Marilyn Marissa Martha Mary Megan Melanie Melissa Meredith Mia Michelle Miranda Molly Monica Nadia Nancy Naomi "
    "Natalie Nell Nicole Nina Nora Olivia Paige Pamela Patricia Paula Polly Rachel Rebecca Rita Roberta Ruth Sadie "
    "Sally Samantha Sandra Sandy Sara Sarah Sharon Sheila Shirley Siobhan Sofia Sofie Sonia Sophia Sophie Stella "
    "Stephanie Susan Suzanne Tanya Tara Tatiana Teresa Theresa Tiffany Tina Valerie Vanessa Vera Wendy Yolanda Yvonne "
    "Zoe"
)
HIS = (
    "Aaron Adam Adrian Aiden Alan Albert Alfred Allan Allen Andrew Andy Anthony Arnold Arthur Barry Ben Benjamin "
    "Benny Bernard Billy Bob Bobby Boris Brad Brandon Brian Bruce Bryan Calvin Carl Carlos Charles Charlie Cody Colin "
    "Connor Craig Dan Daniel Danny Darren Dave David Dennis Derek Diego Donald Doug Douglas Dylan Ed Eddie Edgar "
    "Edward Edwin Eli Elliot Eric Ernest Ethan Eugene Evan Felix Fernando Finn Fred Frederick Gabriel Garrett Gary "
    "George Gerald Gilbert Gordon Greg Gregory Harold Harry Hector Henry Herbert Howard Hugo Ian Isaac Ivan Jack "
    "Jacob Jake Jamal James Jared Jason Jeff Jeffrey Jeremy Jerome Jerry Jim Jimmy Joe Joel Joey John Johnny Jon "
    "Jonathan Joseph Josh Joshua Juan Julian Justin Keith Ken Kenneth Kevin Kyle Larry Lawrence Leo Leon Leonard Liam "
    "Louis Lucas Luis Luke Manuel Marco Marcus Mario Martin Matthew Michael Miguel Mike Mitchell Nate Nathan Ned Neil "
    "Nicholas Nick Noah Norman Oliver Oscar Owen Paco Patrick Paul Pedro Pete Peter Phil Philip Ralph Randy Raymond "
    "Richard Rick Robert Roger Ron Ronald Ronnie Roy Ryan Samuel Scott Sean Sebastian Seth Simon Spencer Stanley "
    "Stephen Steve Steven Stuart Ted Terrence Theo Theodore Thomas Tim Timothy Tobias Toby Todd Tom Tommy Tony Tyler "
    "Vernon Victor Vince Vincent Walter Warren Wayne William Zachary Zack"
)
BOTH = "Alex Ali Blake Casey Chris Jamie Jesse Jessie Kris Pat Quinn Robin Sam Skyler Terry"
NAMES = {name: group for group in (HERS.split(), HIS.split(), BOTH.split()) for name in group}
CAPITALS = re.compile(r"[^\W\d_]+")

THINGS = (  # singular and plural; those of a line can stand for each other
    ("apple apples", "pear pears", "plum plums", "banana bananas", "peach peaches", "apricot apricots"),
    ("marble marbles", "sticker stickers", "bead beads", "seashell seashells"),
    ("crayon crayons", "pencil pencils", "eraser erasers", "paintbrush paintbrushes"),
    ("cookie cookies", "cupcake cupcakes", "muffin muffins", "brownie brownies", "waffle waffles"),
    ("puppy puppies", "kitten kittens", "hamster hamsters"),
    ("tulip tulips", "orchid orchids", "carnation carnations", "peony peonies"),
    ("shirt shirts", "jacket jackets", "sweater sweaters", "scarf scarves"),
)

BEHIND_A_THING = (
    "a about after again all also altogether an and apiece are as at away back be because before but by can come comes "
    "contain contains cost costing costs could did do does during each eat eats equals every fell fits for from given "
    "gone had has have he her his how i if in inside instead into is it its left less made makes more must needs of "
    "off on only or out over per plus remains right sells she should since sleep sleeps so sold still take takes than "
    "that the their then they this to today together tomorrow total until up use uses using was we weigh weighed "
    "weighing weighs were what when where which while who will with without worth would yesterday you"
)
BEHIND = frozenset(BEHIND_A_THING.split())  # words behind a single thing; any other one may make another thing of it

DISTRACTORS = {  # a sentence with a number, and what a problem must not speak of
    "The clock in the hall has not been wound for {n} days.": ("clock", "day", "week", "hall"),
    "The town library has {n} steps in front of its door.": ("library", "step", "stair", "book"),
    "A train with {n} wagons went by a moment ago.": ("train", "wagon"),
    "The old oak in the park is {n} years old.": ("oak", "park", "year", "tree", "age"),
    "Last night, {n} lamps were lit in the harbor.": ("lamp", "light", "harbor", "night"),
    "The village church was painted {n} years ago.": ("church", "paint", "year", "age"),
    "A spider in the attic has caught {n} flies.": ("spider", "attic", "flies", "fly", "insect", "caught", "bug"),
    "The museum shows {n} old coins behind glass.": ("museum", "coin", "glass", "dime", "quarter", "cent"),
}
PERSONAL = {
    "{name} is {n} years old.": ("year", "old", "age", "birthday", "young", "twice"),
    "The house of {name} bears the number {n}.": ("house", "number", "home", "street", "address"),
    "The favorite number of {name} is {n}.": ("number", "favorite"),
}


STARTING = (
    "a about after all although altogether also an and another any as assuming at because before being both but by "
    "calculate during each every finally find five for four from half he her his how however i if in initially is it "
    "its last later lastly many mom dad most my next now of on once one only originally our out over seven she since "
    "six so some ten that the their then there these they this those three to today together tomorrow twenty twice "
    "two under until using we what when where which while who with yesterday you your monday tuesday wednesday "
    "thursday friday saturday sunday january february march april may june july august september october november "
    "december christmas halloween easter"
)
STARTERS = frozenset(STARTING.split())  # what begins a sentence and is nobody, in small letters


def only_person(text: str) -> str | None:
    """The one that a text speaks of, by a known name; None if there are more, or there may be."""
    persons = persons_in(text)
    capitals = {word for word in CAPITALS.findall(text) if word[0].isupper()}
    strangers = {word for word in capitals - set(persons) if word.lower() not in STARTERS}
    return persons[0] if len(persons) == 1 and not strangers else None


def persons_in(text: str) -> list[str]:
    """The known names that stand in a text, each once."""
    return list(dict.fromkeys(word for word in CAPITALS.findall(text) if word in NAMES))
