"""The parts of the conformance kit: small runs, audits, and the checks of training and of prediction."""
