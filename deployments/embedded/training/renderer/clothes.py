"""Neck, shoulders and clothes."""

from PIL import Image, ImageChops

from deployments.embedded.training.renderer.drawing import (
    FACE_X,
    Array,
    Points,
    Sketch,
    arc,
    bump,
    darker,
    ellipse,
    light_field,
    lighter,
    mirrored,
    shifted,
    smooth,
    spline,
    tinted,
)
from deployments.embedded.training.renderer.hats import cloth
from deployments.embedded.training.renderer.parts import SKIN
from deployments.embedded.training.renderer.portrait import Colour, Gender, brightness

WHITE = (244, 245, 248)
TIES: tuple[Colour, Colour] = ((172, 38, 48), (34, 52, 108))  # the second on reddish cloth
STRIPE = 9.0  # width, in drawing units: over two of the generator's pixels
STRIPES: tuple[Points, ...] = tuple(
    [(0.0, y), (2 * FACE_X, y), (2 * FACE_X, y + STRIPE), (0.0, y + STRIPE)]
    for y in (188.0, 206.0, 224.0, 242.0, 260.0)
)

BUILDS: dict[Gender, tuple[float, float]] = {"man": (22.0, 84.0), "woman": (16.5, 69.0)}  # half of neck and shoulders


def draw_body(sketch: Sketch, neck: float, broad: float) -> None:
    """Neck and torso in skin, half as wide as given, then the garment over them: drawn before the head."""
    person = sketch.person
    wardrobe = Wardrobe(sketch, neck, broad)
    column = body_mask(sketch, [(-neck, 130.0), (neck, 130.0), (neck, 192.0), (-neck, 192.0)])
    field = light_field(sketch, FACE_X, 196, 64, 74, 0.7 * sketch.look.contrast)
    field -= 0.34 * sketch.look.contrast * bump(FACE_X, 176, 34, 12)
    sketch.fill(ImageChops.lighter(column, wardrobe.torso), tinted(person.skin, field), part=SKIN)
    wardrobe.dress()


def body_mask(sketch: Sketch, outline: Points) -> Image.Image:
    """The mask of an outline whose x counts from the middle line; a body does not tilt with its head."""
    return sketch.mask(shifted(outline, FACE_X, 0), head=False)


def cloth_light(sketch: Sketch, broad: float) -> Array:
    """On the shading grid, for a torso `broad` to each side: one shoulder bright, a dark fold beside each arm."""
    field = light_field(sketch, FACE_X, 238, broad + 34, 74, 0.9 * sketch.look.contrast) + 0.05
    field += 0.08 * bump(FACE_X - broad * 0.55, 218, 26, 10)
    return field - 0.16 * (bump(FACE_X + broad * 0.76, 258, 8, 26) + bump(FACE_X - broad * 0.76, 258, 8, 26))


class Wardrobe:
    """One figure's torso and the garment on it; x counts from the middle line."""

    def __init__(self, sketch: Sketch, neck: float, broad: float) -> None:
        self.sketch, self.neck = sketch, neck
        shoulders = [(0.0, 183.0), (neck + 1.0, 184.0), (neck + 9.0, 193.0), (broad * 0.62, 203.0),
                     (broad * 0.94, 214.0), (broad + 13.0, 238.0), (broad + 19.0, 276.0), (0.0, 282.0)]  # fmt: skip
        self.torso = body_mask(sketch, spline(mirrored(shoulders)))
        self.colour = cloth(sketch.person.clothes_name)
        self.light = cloth_light(sketch, broad)
        dark = sum(self.colour) < 190
        self.trim = lighter(self.colour, 0.2) if dark else darker(self.colour, 0.26)
        self.stripe = lighter(self.colour, 0.75) if brightness(self.colour) < 170 else darker(self.colour, 0.55)

    def dress(self) -> None:
        """Draws the garment that the portrait names; its torso takes rim light in the cloth's colour."""
        garments = {
            "t-shirt": self.t_shirt, "v-neck": self.v_neck, "shirt": self.shirt, "hoodie": self.hoodie,
            "blazer": self.blazer, "turtleneck": self.turtleneck, "dungarees": self.dungarees,
            "suit": self.suit, "dress": self.gown, "sweater": self.sweater, "lab coat": self.lab_coat,
        }  # fmt: skip
        garments[self.sketch.person.clothes]()
        self.sketch.take_rim_light(self.torso, self.colour)

    def cover(self, opening: Points | None, colour: Colour) -> None:
        """Cloth over the torso but for the opening at the neck."""
        mask = self.torso
        if opening:
            mask = ImageChops.subtract(mask, body_mask(self.sketch, opening))
        self.sketch.fill(mask, tinted(colour, self.light, 0.0))
        if self.sketch.person.pattern == "striped" and colour == self.colour:
            stripes = self.sketch.mask(*STRIPES, head=False)
            self.sketch.fill(ImageChops.multiply(mask, stripes), tinted(self.stripe, self.light, 0.0))

    def hem(self, line: Points, colour: Colour, width: float) -> None:
        """A line of this width along the cloth's edge, cut off at the torso."""
        mask = self.sketch.line_mask(shifted(line, FACE_X, 0), width=width, head=False)
        self.sketch.fill(ImageChops.multiply(mask, self.torso), tinted(colour, self.light, 0.0))

    def patch(self, right: Points, colour: Colour, closed: bool = False) -> None:
        """The same shape on both sides, or one shape that is closed over the middle line."""
        outlines = [mirrored(right)] if closed else [right, [(-x, y) for x, y in right]]
        mask = self.sketch.mask(*(shifted(outline, FACE_X, 0) for outline in outlines), head=False)
        self.sketch.fill(mask, tinted(colour, self.light, 0.0))

    def t_shirt(self, colour: Colour | None = None) -> None:
        """With a round neck; `colour` is for one worn under something else."""
        wide = self.neck + 8
        self.cover(ellipse(0, 180, wide, 25), colour or self.colour)
        self.hem(arc(0, 180, wide, 25, 0, 180, 24), darker(colour, 0.12) if colour else self.trim, 5.0)

    def v_neck(self) -> None:
        """With a pointed opening and a hem along it."""
        wide = self.neck + 8
        v = [(wide, 180.0), (wide - 3, 196.0), (2.0, 230.0), (-2.0, 230.0), (3 - wide, 196.0), (-wide, 180.0)]
        self.cover(v, self.colour)
        self.hem(v, self.trim, 5.0)

    def shirt(self) -> None:
        """With a collar, lighter than the cloth unless that is nearly white, and a button band."""
        wide = self.neck + 3
        self.cover([(wide, 180.0), (0.0, 216.0), (-wide, 180.0)], self.colour)
        self.hem([(0.0, 217.0), (0.0, 262.0)], self.trim, 4.0)
        collar = [
            (self.neck - 3, 178.0),
            (self.neck + 7, 186.0),
            (self.neck + 10, 202.0),
            (self.neck - 5, 221.0),
            (0, 213.0),
        ]
        self.patch(collar, darker(self.colour, 0.1) if sum(self.colour) > 620 else lighter(self.colour, 0.24))

    def hoodie(self) -> None:
        """With the hood folded behind the neck and two cords."""
        wide = self.neck + 4
        self.cover(ellipse(0, 182, wide, 20), self.colour)
        hood = [(self.neck - 3, 176.0), (self.neck + 10, 176.0), (self.neck + 21, 190.0), (self.neck + 14, 207.0),
                (9.0, 222.0), (0.0, 217.0), (12.0, 205.0), (self.neck - 1, 193.0)]  # fmt: skip
        self.patch(spline(hood), lighter(self.colour, 0.12))
        for side in (-1, 1):
            self.hem([(side * 12.0, 220.0), (side * 13.0, 244.0)], self.trim, 4.5)

    def blazer(self) -> None:
        """Over a white t-shirt, or a grey one where the cloth is light."""
        self.t_shirt((240, 240, 243) if sum(self.colour) < 600 else (84, 92, 112))
        wide = self.neck + 9
        self.cover(
            [(wide, 178.0), (wide, 196.0), (3.0, 284.0), (-3.0, 284.0), (-wide, 196.0), (-wide, 178.0)], self.colour
        )
        lapel = [(self.neck + 3, 182.0), (self.neck + 14, 190.0), (self.neck + 24, 216.0), (self.neck + 13, 220.0),
                 (self.neck + 15, 226.0), (5.0, 282.0), (2.0, 282.0), (self.neck + 1, 212.0)]  # fmt: skip
        self.patch(lapel, self.trim)

    def turtleneck(self) -> None:
        """Closed, with a lighter collar up to the chin."""
        self.cover(None, self.colour)
        collar = [(0.0, 174.0), (self.neck + 2, 170.0), (self.neck + 5, 184.0), (self.neck + 7, 196.0), (0.0, 201.0)]
        self.patch(collar, lighter(self.colour, 0.1), closed=True)
        line = smooth([(-self.neck - 7, 196.0), (0.0, 202.0), (self.neck + 7, 196.0)])
        self.hem(line, self.trim, 4.5)

    def dungarees(self) -> None:
        """A bib, two straps and brass buttons over a white t-shirt, or a red one where the cloth is light."""
        self.t_shirt((238, 236, 230) if sum(self.colour) < 600 else (190, 90, 80))
        self.patch([(0.0, 230.0), (34.0, 230.0), (38.0, 262.0), (0.0, 262.0)], self.colour, closed=True)
        strap = [(self.neck + 17, 192.0), (self.neck + 28, 196.0), (34.0, 238.0), (23.0, 238.0)]
        self.patch(strap, self.colour)
        self.hem([(-33.0, 231.0), (33.0, 231.0)], self.trim, 4.0)
        for side in (-1, 1):
            self.sketch.shape(shifted(ellipse(side * 28, 236, 4.5, 4.5, 16), FACE_X, 0), (226, 184, 92), head=False)

    def suit(self) -> None:
        """A tie on a white shirt, under a jacket with lapels."""
        red, _, blue = self.colour
        tie = TIES[red > blue + 40]
        self.cover([(self.neck - 2, 180.0), (0.0, 204.0), (2 - self.neck, 180.0)], WHITE)
        self.patch([(0.0, 204.0), (7.0, 206.0), (5.0, 217.0), (0.0, 217.0)], tie, closed=True)
        self.patch([(0.0, 216.0), (5.0, 216.0), (9.0, 262.0), (0.0, 270.0)], tie, closed=True)
        collar = [(self.neck - 4, 178.0), (self.neck + 5, 184.0), (self.neck + 2, 206.0), (8.0, 217.0), (0.0, 204.0)]
        self.patch(collar, (226, 228, 234))
        self.jacket(self.neck + 6, self.colour, self.trim)

    def jacket(self, wide: float, colour: Colour, lapels: Colour) -> None:
        """Open in a long V, `wide` to each side of the neck, over what is drawn already."""
        self.cover([(wide, 176.0), (wide, 192.0), (2.0, 270.0), (-2.0, 270.0), (-wide, 192.0), (-wide, 176.0)], colour)
        lapel = [(wide - 2, 182.0), (wide + 9, 190.0), (wide + 19, 216.0), (wide + 8, 221.0), (wide + 9, 227.0),
                 (5.0, 278.0), (1.0, 270.0), (wide, 194.0)]  # fmt: skip
        self.patch(lapel, lapels)

    def gown(self) -> None:
        """A dress, cut low and straight, with two straps over bare shoulders."""
        neckline = smooth([(-112.0, 206.0), (-40.0, 226.0), (0.0, 233.0), (40.0, 226.0), (112.0, 206.0)])
        self.cover([(-112.0, 160.0), *neckline, (112.0, 160.0)], self.colour)
        strap = [(self.neck + 13, 186.0), (self.neck + 23, 190.0), (48.0, 232.0), (36.0, 232.0)]
        self.patch(strap, self.colour)
        self.hem(neckline, self.trim, 4.5)

    def sweater(self) -> None:
        """With a wide collar close to the neck and, unless it is striped, a knitted zigzag across the chest."""
        wide = self.neck + 4
        self.cover(ellipse(0, 178, wide, 20), self.colour)
        self.hem(arc(0, 180, wide + 3, 24, 0, 180, 24), self.trim, 10.0)
        if self.sketch.person.pattern == "plain":
            zigzag = [(12.0 * step, 226.0 + 12.0 * (step % 2)) for step in range(-10, 11)]
            self.hem(zigzag, self.stripe, 5.0)

    def lab_coat(self) -> None:
        """White, open over a shirt in the clothes' colour, with a pen in its pocket."""
        self.cover([(self.neck + 2, 180.0), (0.0, 212.0), (-self.neck - 2, 180.0)], self.colour)
        self.jacket(self.neck + 8, WHITE, (214, 220, 230))
        self.hem([(44.0, 242.0), (66.0, 242.0)], (188, 196, 210), 4.0)
        self.hem([(55.0, 230.0), (55.0, 242.0)], (40, 84, 170), 4.0)
