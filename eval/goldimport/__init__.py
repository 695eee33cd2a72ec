"""Gold sets from what other evaluation tools write: promptfoo, inspect_ai, OpenAI evals.

`import_gold` reads a file; nothing in it is run and nothing is fetched. What a check of ours
cannot say is left out and named with its reason: a question whose demands would be weaker here
than there is no question at all.
"""

from eval.goldimport.made import Imported, LeftOut, Options
from eval.goldimport.run import FORMATS, import_gold

__all__ = ["FORMATS", "Imported", "LeftOut", "Options", "import_gold"]
