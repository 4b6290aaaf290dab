"""Editing policies as forms: a typed model of a policy, and a text that stays the source of truth.

    text -> blocks -> model of one policy -> (a person edits it) -> text again, only where something changed

:mod:`~nomos_policy.visual.model` has the values, :mod:`~nomos_policy.visual.reading` and
:mod:`~nomos_policy.visual.writing` the two directions, :mod:`~nomos_policy.visual.document` the text with its blocks.
"""
