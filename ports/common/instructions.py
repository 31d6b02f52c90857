"""Instructions of embedders that were trained with them.

All of the paper's use is between questions, on both sides alike, so the task is the one that these models were trained
with for texts of like meaning.
"""

SIMILAR_TEXT = "Retrieve semantically similar text"


def instruct(task: str) -> str:
    """What stands before the text: stella, gte and NV-Embed write it the same way."""
    return f"Instruct: {task}\nQuery: "
