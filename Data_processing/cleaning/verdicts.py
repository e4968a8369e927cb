"""What can become of a record or a box: rejected for a reason, or repaired."""

from dataclasses import dataclass

REMEDIES = {
    "outside the source": "correct the file name in the annotation",
    "second record": "delete all but one, or join them",
    "repeated id": "give each image its own id: their annotations cannot be distinguished",
    "unlisted image": "list the image in the annotation file, or delete these annotations",
    "unknown category": "add the category to the annotation file, or correct the id",
    "malformed annotation": "correct the annotation file",
    "malformed box": "draw the box again",
    "malformed segmentation": "draw the object again",
    "missing image": "add the image, or delete its annotation",
    "ambiguous image": "name the image with its folder, or set the source's `images`",
    "unreadable image": "replace the image file",
    "no annotation": "annotate the image, or delete it",
    "wrong size": "correct the annotated size; if only that is wrong and the boxes fit, set clean.trust_image_size",
    "too small": "use a larger image, or lower clean.min_side",
    "too large": "use a smaller image, or raise clean.max_side",
    "extreme shape": "crop it, or raise clean.max_aspect",
    "blank": "use an image that shows something, or lower clean.min_contrast",
    "blurred": "use a sharper image, or lower clean.min_sharpness",
    "too dark": "use a brighter image, or lower clean.min_brightness",
    "too bright": "use a darker image, or raise clean.max_brightness",
    "unreadable mask": "replace the mask file",
    "wrong mask": "use the mask of this image",
    "unknown mask value": "say what class the value stands for, or draw the mask again",
    "misspelt class": "correct the name, or list it in clean.rename or clean.drop",
    "no kept class": "nothing, or set clean.without_kept to negative",
    "box without area": "draw the box again",
    "box outside": "draw the box again",
    "box covers all": "draw the box again, or raise clean.max_box_share",
    "impossible box": "draw the box again",
    "contradiction": "make labels, counts and boxes agree",
    "conflicting duplicates": "annotate the copies of one image alike, or keep one",
}


class Rejection(Exception):
    """Raised by a rule. rule: its name. origin: file and line or id. value: what is at fault. remedy: what helps."""

    def __init__(self, rule: str, origin: str, value: str, remedy: str = "") -> None:
        super().__init__(rule, origin, value, remedy)
        self.rule, self.origin, self.value, self.remedy = rule, origin, value, remedy or REMEDIES[rule]


@dataclass(frozen=True)
class Repair:
    """What was repaired: the rule, the file and line or id, the value before and after."""

    rule: str
    origin: str
    before: str
    after: str
