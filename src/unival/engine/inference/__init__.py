"""What a trained model answers, row by row: read predict, candidates, evaluate."""
