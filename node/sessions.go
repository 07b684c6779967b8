package node

import "gridveil/node/monthly"

// MonthStatement is a month's sessions of a wallbox or a wallet.
type MonthStatement = monthly.Statement
