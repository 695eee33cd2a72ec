"""The one exception tree of the project.

FlywheelError                 anything we raise on purpose; a CLI prints it and exits 1
├── ConfigError               a setting is unknown, malformed or contradicts another
├── UsageError                the command's own words are off (CLI exits 2)
├── RecordError               a record that came from outside does not fit its schema
├── LedgerError               the ledger cannot be opened, read or written
│   ├── LedgerLocked          another process holds it longer than we wait
│   ├── RowRefused            no table takes this row, now or later
│   ├── StaleDeployment       compare-and-set lost: somebody changed the deployment first
│   └── LeaseLost             somebody else does now what only one may do
├── RedactionFailed           personal data could not be looked for; keep none of the text
├── UnknownRow                a request id that the ledger has never seen
├── RegistryError             a version folder is missing, incomplete, altered or unservable
├── DatasetError              the pairs cannot be frozen or trained on
├── GoldError                 a gold set cannot be read
├── ServerError               the live server does not answer, or does not serve what it should
└── GateRefused               the gate said no (CLI exits 100)

Every message states the value, the rule it breaks and the remedy.
"""

from __future__ import annotations


class FlywheelError(Exception):
    """Base of every error this project raises on purpose.

    Args:
        problem: what was found, with the offending value in it.
        rule: the rule it breaks, or "" where the problem says it all.
        remedy: what the reader can do about it, or "" where nothing can be done.
    """

    exit_code = 1

    def __init__(self, problem: str, *, rule: str = "", remedy: str = "") -> None:
        self.problem, self.rule, self.remedy = problem, rule, remedy
        super().__init__("\n".join(part for part in (problem, rule, remedy) if part))


class ConfigError(FlywheelError):
    """A configuration file or an environment variable is wrong."""


class UsageError(FlywheelError):
    """The command's words are off."""

    exit_code = 2


class RecordError(FlywheelError):
    """A record from outside does not fit; `field` names where."""

    def __init__(self, problem: str, *, field: str = "", rule: str = "", remedy: str = "") -> None:
        self.field = field
        super().__init__(problem, rule=rule, remedy=remedy)


class LedgerError(FlywheelError):
    """The ledger cannot be opened, read or written."""


class LedgerLocked(LedgerError):
    """Another process holds the ledger longer than we wait."""


class RowRefused(LedgerError):
    """A row breaks a rule of its table, or holds what no database stores."""


class StaleDeployment(LedgerError):
    """Somebody appended a deployment event between our read and our write."""


class LeaseLost(LedgerError):
    """Somebody else took over the lease under which this process worked."""


class RedactionFailed(FlywheelError):
    """Personal data could not be looked for; never quotes the text."""


class UnknownRow(FlywheelError):
    """No interaction has this request id."""


class RegistryError(FlywheelError):
    """A version folder is missing, incomplete, altered or cannot be served."""


class DatasetError(FlywheelError):
    """Pairs cannot be frozen, or a frozen dataset cannot be trained on."""


class GoldError(FlywheelError):
    """A gold set cannot be read."""


class ServerError(FlywheelError):
    """The live server does not answer, or does not serve what it should."""


class GateRefused(FlywheelError):
    """The gate did not let a version pass."""

    exit_code = 100
