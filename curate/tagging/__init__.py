"""Marks on rows, and taking over what users said.

tags       marks rows by hand and by window
sweep      looks at what is new: unsure answers, rules, gold misses, feedback
takeover   feedback: its marks, and users' corrections through the acceptance policy
rules      conditions in YAML; `matching` asks them of rows, `trial` of the past
gold_miss  gold questions that users asked and that were answered wrongly
"""
