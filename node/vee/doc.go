// Package vee validates, estimates and edits interval readings. The same checks
// run where a meter is read and again at the head-end; a skipped one is noticed
// because the head-end finds a flag that the first stage did not set.
//
// Check looks at one reading of one (meter, channel) with 48 bytes of state and
// sets a bit per rule. A rule is R (the value is not billable until edited), F
// (flagged) or I (information). A rejected reading never moves the state by
// itself: the next one decides whether it was an outlier or a new level.
//
// Everything is integer arithmetic on mWh and pure. Estimates carry ESPI quality
// codes and always sum to the register difference they fill.
//
// Source: doc/design.md; California VEE rules, NAESB ESPI.
package vee
