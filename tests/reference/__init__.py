"""The papers' formulas, transcribed as naively as possible in float64: what the package is compared with."""
