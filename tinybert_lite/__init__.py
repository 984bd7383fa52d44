"""TinyBERT Lite: TinyBERT distillation (Jiao et al., 2020), taught by doing it.

Nothing heavy is imported here: `import tinybert_lite` costs milliseconds, each module brings
what it needs when it is imported itself.
"""

__version__ = "0.2.0"


class UserError(ValueError):
    """Something the user can put right; its text says what is wrong and what to do."""
