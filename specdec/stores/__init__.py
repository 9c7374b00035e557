"""What drafters keep between requests: texts as token ids, in one file that is checked when it is read."""

from specdec.stores.file import Store, StoreError, read, write
from specdec.stores.vocabulary import Vocabulary

__all__ = ["Store", "StoreError", "Vocabulary", "read", "write"]
