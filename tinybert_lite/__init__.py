"""TinyBERT Lite: TinyBERT distillation (Jiao et al., 2020), taught by doing it.

Nothing heavy is imported here: `import tinybert_lite` takes milliseconds, and each module imports
what it needs.
"""

__version__ = "0.2.0"


class UserError(ValueError):
    """An error that the user can fix; its message says what is wrong and what to do."""
