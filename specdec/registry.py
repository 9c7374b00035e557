"""Names → implementations, imported on first use, and open to other packages through entry points."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from inspect import signature
from typing import Any, Generic, TypeVar

from specdec.errors import ConfigError
from specdec.foreign import foreign

T = TypeVar("T")
IMPORTABLE = "Packages and modules are found if they are installed or in the current folder."


def is_dotted(name: str) -> bool:
    """Whether a name is the path of a class, `package.module.Class` or `package.module:Class`."""
    parts = name.replace(":", ".").split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


class Registry(Generic[T]):
    """The valid names of one kind of plugin.

    Args:
        kind: what the names stand for, used in messages ("drafter").
        group: entry-point group through which other packages add names ("specdec.drafters").
        builtin: name → "module:Class" for our own.
    """

    def __init__(self, kind: str, group: str, builtin: dict[str, str]) -> None:
        self.kind, self.group, self._targets = kind, group, dict(builtin)

    def names(self) -> list[str]:
        """Every valid name, ours and those of installed packages."""
        return sorted({*self._targets, *(entry.name for entry in entry_points(group=self.group))})

    def targets(self, builtin: bool = True) -> dict[str, str]:
        """Name → dotted path of its class, of which nothing is imported.

        Args:
            builtin: with our own names, or only those of installed packages.
        """
        others = {entry.name: entry.value for entry in entry_points(group=self.group)}
        others = {name: target for name, target in others.items() if name not in self._targets}
        targets = {**others, **self._targets} if builtin else others
        return {name: target.partition("[")[0].strip().replace(":", ".") for name, target in sorted(targets.items())}

    def get(self, name: str) -> type[T]:
        """The class called `name`.

        Args:
            name: registered, or the dotted path of a class that is not ("my_package.my_module.Mine").

        Raises:
            ConfigError: if there is none (lists the valid names), or another package's cannot be imported.
        """
        if name in self._targets:
            module, _, attribute = self._targets[name].partition(":")
            found: type[T] = getattr(import_module(module), attribute)
            return found
        for entry in entry_points(group=self.group, name=name):
            try:
                loaded: type[T] = entry.load()
            except (ImportError, AttributeError) as error:
                raise ConfigError(
                    f"{self.kind.capitalize()} {name!r} of another package ({entry.value}) cannot be loaded: {error}. "
                    "Correct or uninstall that package."
                ) from error
            return loaded
        if is_dotted(name):
            return self._imported(name)
        raise ConfigError(f"Unknown {self.kind} {name!r}. Valid names: {', '.join(self.names())}.")

    def _imported(self, path: str) -> type[T]:
        module, _, attribute = path.replace(":", ".").rpartition(".")
        with foreign(ConfigError, f"{self.kind.capitalize()} {path!r} cannot be imported", IMPORTABLE):
            found: type[T] = getattr(import_module(module), attribute)
        return found

    def create(self, name: str, **options: Any) -> T:
        """An instance of `name`, made with `options`.

        Raises:
            ConfigError: for an unknown name or an option that the class does not take.
        """
        cls = self.get(name)
        try:
            signature(cls).bind(**options)
        except TypeError as error:
            raise ConfigError(f"{self.kind.capitalize()} {name!r} cannot be made with {options}: {error}.") from error
        return cls(**options)


def _build() -> tuple[Registry[Any], Registry[Any], Registry[Any]]:
    drafters = Registry[Any](
        "drafter",
        "specdec.drafters",
        {
            "none": "specdec.drafters.none:NoDrafter",
            "cascade": "specdec.drafters.cascade:CascadeDrafter",
            "ngram": "specdec.drafters.ngram:NgramDrafter",
            "suffix": "specdec.drafters.suffix:SuffixDrafter",
            "model": "specdec.drafters.model:ModelDrafter",
            "tli": "specdec.drafters.tli:TliDrafter",
            "slem": "specdec.drafters.slem:SlemDrafter",
            "early_exit": "specdec.drafters.early_exit:EarlyExitDrafter",
            "retrieval": "specdec.drafters.retrieval:RetrievalDrafter",
            "prediction": "specdec.drafters.prediction:PredictionDrafter",
            "recycling": "specdec.drafters.recycling:RecyclingDrafter",
            "lookahead": "specdec.drafters.lookahead:LookaheadDrafter",
            "head": "specdec.drafters.head:HeadDrafter",
            "layer_skip": "specdec.drafters.layer_skip:LayerSkipDrafter",
            "quantized_self": "specdec.drafters.quantized_self:QuantizedSelfDrafter",
        },
    )
    rules = Registry[Any](
        "rule",
        "specdec.rules",
        {
            "greedy": "specdec.verify.greedy:GreedyRule",
            "token": "specdec.verify.token:TokenRule",
            "block": "specdec.verify.block:BlockRule",
            "multiround": "specdec.verify.multiround:MultiroundRule",
            "rrs": "specdec.verify.rrs:RecursiveRejectionRule",
            "kseq": "specdec.verify.kseq:KSeqRule",
            "traversal": "specdec.verify.traversal:TraversalRule",
            "hsd": "specdec.verify.hsd:HierarchicalRule",
            "gumbel": "specdec.verify.gumbel:GumbelRule",
            "typical": "specdec.verify.typical:TypicalRule",
        },
    )
    policies = Registry[Any](
        "policy",
        "specdec.policies",
        {
            "always": "specdec.policy.always:AlwaysPolicy",
            "product": "specdec.policy.product:ProductPolicy",
            "select": "specdec.policy.select:SelectPolicy",
            "merge": "specdec.policy.merge:MergePolicy",
            "exp3": "specdec.policy.bandit:Exp3Policy",
            "ucb": "specdec.policy.bandit:UcbPolicy",
            "exp4": "specdec.policy.experts:Exp4Policy",
            "hedge": "specdec.policy.hedge:HedgePolicy",
        },
    )
    return drafters, rules, policies


DRAFTERS, RULES, POLICIES = _build()
