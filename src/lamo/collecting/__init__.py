"""Environment and behaviour policy -> dataset: what `lamo data collect` does. It rolls policies out, so it stands above
them; nothing in `data` knows of it.
"""
