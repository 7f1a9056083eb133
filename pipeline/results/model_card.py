"""What must be said of every model that is trained here: on the report's page and in the card of an exported model."""

STATEMENTS = {
    "What it does": (
        "Says of a short clip of a group of people whether the emotion that the group shows is positive, neutral or "
        "negative, from frames of the whole scene and from the sound."
    ),
    "What the labels are": (
        "Affect as annotators perceived it in the clip as a whole. It is not what the people in it feel, and it says "
        "nothing about any one of them."
    ),
    "Intended use": "Research on affective computing: comparing methods, studying what such models rest on.",
    "Not for": (
        "Surveillance; decisions about people, as in hiring, schooling, policing, insurance or health; advertising by "
        "mood. Inferring emotions of people at work or in education is prohibited in some places, the European Union "
        "among them."
    ),
    "Limits": (
        "Perceived emotion depends on culture and on context that a clip does not show. The clips that were trained on "
        "stand for a certain kind of videos, people and languages; other ones get worse answers, with undiminished "
        "confidence. Errors have not been measured by age, gender or origin: the data sets here have no such labels."
    ),
}
