// One line per stem: the function `std::vector<Op> STEM_ops()` in ops/STEM.cpp gives its operators.
GRAFT_STEM(adam)
GRAFT_STEM(gelu)
GRAFT_STEM(losses)
GRAFT_STEM(optimiser)
GRAFT_STEM(sgd)
GRAFT_STEM(softmax_cross_entropy)
GRAFT_STEM(unary)
