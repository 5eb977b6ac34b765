"""What a setting such as `data` or `prompts` names: "atlas", or else a file or a Hub id
(labkit.data).
"""

from labkit import data
from labkit.atlas import styles, text

ATLAS = 12_000  # demonstrations that "atlas" stands for where nobody asks for more


def load_demos(source: str, limit: int = 0) -> list[data.Demo]:
    """Demonstrations of the atlas, or of a file or Hub id. limit 0: all."""
    if source == "atlas":
        return data.cut(styles.demos(n=max(ATLAS, limit)), limit)
    return data.load_demos(source, limit)


def load_prompts(source: str, limit: int = 0) -> list[str]:
    """The atlas's prompts for feedback, or prompts of a file or Hub id. limit 0: all."""
    if source == "atlas":
        return data.cut(styles.feedback_prompts(), limit)
    return data.load_prompts(source, limit)


def load_text(source: str) -> list[str]:
    """The documents that the atlas's base reads, or those of a file or Hub id."""
    return list(text.corpus()) if source == "atlas" else data.load_text(source)
