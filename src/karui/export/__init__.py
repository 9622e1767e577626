"""Program → artefact: one file per target, each with ``write(program, folder, name=…) -> Artifact``. No torch here."""
