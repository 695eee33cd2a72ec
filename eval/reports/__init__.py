"""What a gate says, for each who reads it: a terminal, a build server, a pull request, a browser.

`write_reports` puts all of them into the run's folder. Texts of users stand in none of these
files: a question that is a stored row is named by the row's id, and the review page opens it.
"""

from eval.reports.files import JUNIT, MARKDOWN, PAGE, PICTURE, write_reports
from eval.reports.terminal import print_report
from eval.reports.words import verdict_in_words

__all__ = [
    "JUNIT",
    "MARKDOWN",
    "PAGE",
    "PICTURE",
    "print_report",
    "verdict_in_words",
    "write_reports",
]
