"""The paper's tables measured with published weights: one command, one folder of CSV files and one page."""
