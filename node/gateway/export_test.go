package gateway

// CurveOf is curveOf for tests that compare with the command line.
var CurveOf = curveOf
