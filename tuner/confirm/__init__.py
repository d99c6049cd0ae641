"""What follows the search: finalists against the defaults, a control arm, drift, and the verdict."""
