"""How far raters agree: people, judges, the exact world."""
