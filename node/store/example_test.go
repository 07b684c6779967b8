package store_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"gridveil/node/store"
)

// A message and the state that caused it are stored together; after the far
// side has acknowledged, the message goes.
func Example() {
	dir, err := os.MkdirTemp("", "gridveil-store")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	key, err := store.NewKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	st, err := store.Open(dir, key, store.Options{})
	var damage *store.DamageError
	switch {
	case errors.As(err, &damage) && st != nil:
		fmt.Println(damage, "-", damage.Next()) // refetch, then st.AcceptDamage()
	case err != nil:
		panic(err)
	}
	defer st.Close()

	out := st.Outbox("report")
	err = st.Update(func(tx *store.Tx) error {
		if err := tx.Set(store.SpaceCursor.Key([]byte("reported")), store.U64(42)); err != nil {
			return err
		}
		return out.PutTx(tx, store.Message{ID: []byte("r-42"), Kind: "report", To: "ssn-3", Body: []byte("...")})
	})
	if err != nil {
		panic(err)
	}
	waiting, _ := out.List(0, 10)
	fmt.Println("waiting:", len(waiting))
	out.Done([]byte("r-42"))
	waiting, _ = out.List(0, 10)
	fmt.Println("waiting:", len(waiting))
	// Output:
	// waiting: 1
	// waiting: 0
}
