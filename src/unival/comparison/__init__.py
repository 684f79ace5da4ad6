"""Results side by side.

sides (what a person names, as folders of one form) -> paired (rows that both have) -> differences (what
follows from them, and what cannot be compared) -> page (the document).
"""
