"""The coordinate check: proof by short training that layers behave alike at every width."""
