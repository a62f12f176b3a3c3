"""it3 inside other frameworks, a module for each, which needs that framework: ``import it3.frameworks.lightning``."""
