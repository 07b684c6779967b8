package site

import (
	"fmt"

	"gridveil/node/web"
	"gridveil/privacy/leak"
)

// ToldLines puts the figures of a home's day in words, one line a party.
func ToldLines(told []leak.Told) (out []web.ToldLine) {
	for _, t := range told {
		out = append(out, web.ToldLine{Party: t.Party.String(), Load: toldFigure(t.Load), Charging: toldFigure(t.Charging)})
	}
	return out
}

func toldFigure(f leak.Figure) web.ToldFigure {
	out := web.ToldFigure{Basis: f.Basis.String(), Rests: f.Rests, Test: f.Test}
	if f.Basis != leak.NoFigure {
		out.AtMost = &f.AtMost
	}
	switch {
	case f.Basis == leak.NoFigure:
		out.Words = "no figure"
	case f.Basis == leak.NoField || f.Basis == leak.Tested:
		out.Words = "nothing"
	default:
		out.Words = fmt.Sprintf("%.1f bits", f.AtMost)
	}
	if f.Modelled {
		out.Model, out.ModelWords = &f.Model, fmt.Sprintf("about %.1f by model", f.Model)
	}
	return out
}

// tell adds to l what each party learnt.
// The table of rows has bits for one reading; what all of a day's reports tell is
// the utility's figure.
func tell(l *web.Left, view leak.View, told []leak.Told) {
	l.Told = ToldLines(told)
	for i, line := range view.Lines {
		if line.Row.Message == leak.MeterReport && line.Row.To == leak.OwnUtility {
			l.Lines[i].Bits = line.Row.About(leak.Who) + told[leak.Utility-1].Load.AtMost
		}
	}
}
