"""Which policy, and which return target, to deploy when there is no simulator: judged from logged data alone.

docs/selection.md says what each estimate means, where it fails, and how well it agreed with true returns where they are
known.
"""
